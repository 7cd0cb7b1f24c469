package uring

import "unsafe"

// SQE is a submission queue entry (struct io_uring_sqe, 64 bytes).
type SQE struct {
	Opcode   uint8
	Flags    uint8  // FlagFixedFile
	IoPrio   uint16 // 0
	Fd       int32  // a descriptor, or with FlagFixedFile an index of RegisterFiles
	Off      uint64 // bytes; for OpFallocate too
	Addr     uint64 // buffer or iovec array; the length for OpFallocate
	Len      uint32 // bytes, or number of iovecs; the mode for OpFallocate
	OpFlags  uint32 // RWF_* for reads and writes, FsyncDatasync for OpFsync
	UserData uint64 // comes back in the CQE
	BufIndex uint16 // of RegisterBuffers, for the fixed operations
	_        uint16 // personality
	_        int32  // splice_fd_in
	_        [2]uint64
}

// CQE is a completion queue entry (struct io_uring_cqe, 16 bytes).
type CQE struct {
	UserData uint64
	Res      int32 // what the system call would return: a count, or minus an errno
	Flags    uint32
}

// The sizes that the kernel expects; a difference does not compile.
const (
	_ = -(unsafe.Sizeof(SQE{}) ^ 64)
	_ = -(unsafe.Sizeof(CQE{}) ^ 16)
	_ = -(unsafe.Sizeof(params{}) ^ 120)
)

// Operations (enum io_uring_op).
const (
	OpNop        = 0
	OpReadv      = 1
	OpWritev     = 2
	OpFsync      = 3
	OpReadFixed  = 4
	OpWriteFixed = 5
	OpFallocate  = 17
	OpRead       = 22
	OpWrite      = 23
)

// Flags of an SQE.
const (
	FlagFixedFile = 1 << 0 // IOSQE_FIXED_FILE
	FsyncDatasync = 1 << 0 // IORING_FSYNC_DATASYNC, in OpFlags
)

// Set-up flags, features and offsets that this package uses.
const (
	setupCQSize    = 1 << 3 // IORING_SETUP_CQSIZE
	setupClamp     = 1 << 4 // IORING_SETUP_CLAMP
	setupSubmitAll = 1 << 7 // IORING_SETUP_SUBMIT_ALL, Linux 5.18

	featSingleMmap   = 1 << 0 // Linux 5.4
	featNoDrop       = 1 << 1 // Linux 5.5
	featSubmitStable = 1 << 2 // Linux 5.5

	offSQRing = 0
	offSQEs   = 0x10000000

	enterGetEvents = 1 << 0

	sqCQOverflow = 1 << 1 // IORING_SQ_CQ_OVERFLOW

	registerBuffers = 0
	registerFiles   = 2
	unregisterFiles = 3
	registerProbe   = 8

	opSupported = 1 << 0 // IO_URING_OP_SUPPORTED
)

// params is struct io_uring_params.
type params struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFd uint32
	_                                                                      [3]uint32

	sqOff struct {
		head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
		_                                                           uint64
	}
	cqOff struct {
		head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
		_                                                           uint64
	}
}
