package iscsi

import (
	"fmt"

	"blockd.dev/target/scsi"
)

// Params are the negotiated operational parameters of a session and its
// connection (RFC 7143 §13). Lengths are in bytes.
type Params struct {
	HeaderDigest bool
	DataDigest   bool

	MaxSendData int // initiator's MaxRecvDataSegmentLength
	MaxRecvData int // ours

	InitialR2T          bool
	ImmediateData       bool
	MaxBurst            int
	FirstBurst          int
	MaxOutstandingR2T   int
	DataPDUInOrder      bool
	DataSequenceInOrder bool

	Time2Wait          int // seconds
	Time2Retain        int // seconds
	MaxConnections     int
	ErrorRecoveryLevel int
	ProtocolLevel      int
}

// defaultParams are those that hold for keys nobody mentions.
func defaultParams() Params {
	return Params{
		MaxSendData:         8192,
		MaxRecvData:         8192,
		InitialR2T:          true,
		ImmediateData:       true,
		MaxBurst:            262144,
		FirstBurst:          65536,
		MaxOutstandingR2T:   1,
		DataPDUInOrder:      true,
		DataSequenceInOrder: true,
		Time2Wait:           2,
		Time2Retain:         20,
		MaxConnections:      1,
		ProtocolLevel:       1,
	}
}

// Limits bound what hosts can make the server hold. The zero value of each
// field means its default.
type Limits struct {
	// Sessions is how many sessions may exist at once; default 16384.
	Sessions int
	// Logins is how many connections may be in the login phase; default 64.
	Logins int
	// QueueDepth is the command window of a session; default 128, 1 to 1024.
	QueueDepth int
	// BufferBytes is how much buffer, and borrowed memory of devices, the
	// commands of one connection may hold; those beyond it end with BUSY.
	// Default 64 MiB, at least scsi.MaxTransferBytes.
	BufferBytes int64
	// MaxRecvData is the longest data segment accepted; default 256 KiB,
	// 8 KiB to 1 MiB.
	MaxRecvData int
	// MaxBurst is the most that one R2T asks for; default 1 MiB.
	MaxBurst int
	// FirstBurst is the most unsolicited data per command; default 256 KiB.
	FirstBurst int
	// LoginSeconds is how long a login may take; default 15.
	LoginSeconds int
	// NOPSeconds is how long a connection may be silent before it is asked
	// whether it lives; default 15; negative means never.
	NOPSeconds int
	// NOPTimeoutSeconds is how long it may take to answer; default 15.
	NOPTimeoutSeconds int
}

// fill sets defaults and checks ranges; the error names field and rule.
func (l *Limits) fill() error {
	for _, f := range []struct {
		name        string
		v           *int
		def, lo, hi int
	}{
		{"Sessions", &l.Sessions, 16384, 1, 65535},
		{"Logins", &l.Logins, 64, 1, 65535},
		{"QueueDepth", &l.QueueDepth, 128, 1, 1024},
		{"MaxRecvData", &l.MaxRecvData, 256 << 10, 8 << 10, 1 << 20},
		{"MaxBurst", &l.MaxBurst, 1 << 20, 8 << 10, 1<<24 - 1},
		{"FirstBurst", &l.FirstBurst, 256 << 10, 512, 1<<24 - 1},
		{"LoginSeconds", &l.LoginSeconds, 15, 1, 3600},
		{"NOPSeconds", &l.NOPSeconds, 15, -1, 3600},
		{"NOPTimeoutSeconds", &l.NOPTimeoutSeconds, 15, 1, 3600},
	} {
		if *f.v == 0 {
			*f.v = f.def
		}
		if *f.v < f.lo || *f.v > f.hi {
			return fmt.Errorf("iscsi: limit %s is %d: use %d to %d", f.name, *f.v, f.lo, f.hi)
		}
	}
	if l.BufferBytes == 0 {
		l.BufferBytes = 64 << 20
	}
	if l.BufferBytes < scsi.MaxTransferBytes { // less would leave the longest command BUSY for ever
		return fmt.Errorf("iscsi: limit BufferBytes is %d: use at least %d", l.BufferBytes, scsi.MaxTransferBytes)
	}
	if l.FirstBurst > l.MaxBurst {
		return fmt.Errorf("iscsi: limit FirstBurst %d exceeds MaxBurst %d", l.FirstBurst, l.MaxBurst)
	}
	return nil
}
