package verify

import (
	"bufio"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"
	"syscall"
)

// The journal's file, little-endian. First a header of 64 bytes:
//
//	0      8         12     16       24      32    40           48      60    64
//	+------+---------+------+--------+-------+-----+------------+-------+-----+
//	| magic| version | unit | volume | first | end | sizeBytes  | flags | crc |
//	+------+---------+------+--------+-------+-----+------------+-------+-----+
//
// then records of 32 bytes, each ended by the CRC32C of the 28 before it:
//
//	0      4        8       16      24     28    32
//	+------+--------+-------+-------+------+-----+
//	| kind | blocks | block | write | 0    | crc |
//	+------+--------+-------+-------+------+-----+
//
// A record that is cut short at the end of the file was being written when its
// process was killed, and is dropped by the next one.
const (
	journalMagic   = 0x314c4e4a_59465652 // "RVFYJNL1"
	journalVersion = 1
	headerLen      = 64
	recordLen      = 32

	flagZeroed     = 1
	flagWriteCache = 2
)

type recordKind uint32

const (
	recRun        recordKind = iota + 1 // a process begins; the target may have crashed before
	recPattern                          // a write of the pattern is about to be sent
	recZeroes                           // zeroes are about to be written
	recAck                              // acknowledged
	recAckDurable                       // acknowledged, with FUA
	recFlushed                          // a flush was acknowledged; write is its mark
	recSeen                             // a read settled which version a block holds
	recCrash                            // the target was lost and came back
)

type record struct {
	kind   recordKind
	blocks uint32
	block  int64 // index within the range
	v      uint64
}

type header struct {
	unit       int64
	volume     uint64
	first, end int64
	size       int64
	zeroed     bool
	writeCache bool
}

// Config says what a new journal covers.
type Config struct {
	// OffsetBytes and RangeBytes are the part of the device that is written and
	// checked; RangeBytes 0 means to the end.
	OffsetBytes, RangeBytes int64
	// Zeroed says that the range reads as zeroes at first. Otherwise blocks
	// that were not written yet may hold anything but this journal's patterns.
	Zeroed bool
	// WriteCache says that the target has a volatile write cache; see the
	// package comment.
	WriteCache bool
}

// Journal keeps an Oracle's knowledge on a file. Its methods may be called
// from any goroutine.
type Journal struct {
	Oracle *Oracle

	mu struct {
		sync.Mutex
		file *os.File
		buf  []byte
		err  error // set once
	}
}

// ErrJournal means that a file is not a journal, or that it is damaged or of
// another volume.
var ErrJournal = errors.New("not a journal of this volume")

// Create makes a journal at path, which must not exist yet, for a device of
// the given size and block size in bytes.
func Create(path string, sizeBytes int64, blockSize int, c Config) (*Journal, error) {
	h := header{unit: int64(blockSize), first: c.OffsetBytes, end: c.OffsetBytes + c.RangeBytes, size: sizeBytes,
		zeroed: c.Zeroed, writeCache: c.WriteCache}
	if c.RangeBytes == 0 {
		h.end = sizeBytes
	}
	if err := h.validate(); err != nil {
		return nil, err
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	h.volume = binary.LittleEndian.Uint64(id[:])
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("make the journal: %w", err)
	}
	j := &Journal{Oracle: newOracle(h)}
	j.mu.file = f
	if _, err := f.Write(h.encode()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return j, errors.Join(j.lock(), j.begin())
}

// lock keeps a second process from using the journal at the same time.
func (j *Journal) lock() error {
	if err := syscall.Flock(int(j.mu.file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("journal %s: another process uses it: %w", j.mu.file.Name(), err)
	}
	return nil
}

// Open takes up a journal and learns what it has: a device of the given size
// and block size must be the one that it was made for.
func Open(path string, sizeBytes int64, blockSize int) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	j := &Journal{}
	j.mu.file = f
	if err := j.lock(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := j.load(sizeBytes, int64(blockSize)); err != nil {
		return nil, errors.Join(fmt.Errorf("journal %s: %w", path, err), f.Close())
	}
	return j, j.begin()
}

// begin records that a process starts to use the journal.
func (j *Journal) begin() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.addLocked(record{kind: recRun})
	return j.flushLocked()
}

// load replays the file, and cuts off a record that is not whole.
func (j *Journal) load(sizeBytes, unit int64) error {
	f := j.mu.file
	in := bufio.NewReaderSize(f, 1<<20)
	var hb [headerLen]byte
	if _, err := io.ReadFull(in, hb[:]); err != nil {
		return fmt.Errorf("%w: no header", ErrJournal)
	}
	h, err := decodeHeader(hb[:])
	if err != nil {
		return err
	}
	if h.unit != unit || h.end > sizeBytes {
		return fmt.Errorf("%w: it covers bytes %d to %d in blocks of %d, the device has %d in blocks of %d",
			ErrJournal, h.first, h.end, h.unit, sizeBytes, unit)
	}
	j.Oracle = newOracle(h)
	good := int64(headerLen)
	var b [recordLen]byte
	for {
		_, err := io.ReadFull(in, b[:])
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return err
		}
		r, err := decodeRecord(b[:])
		if err == nil {
			err = j.Oracle.apply(r)
		}
		if err != nil {
			return fmt.Errorf("record at %d: %w", good, err)
		}
		good += recordLen
	}
	if err := f.Truncate(good); err != nil {
		return err
	}
	_, err = f.Seek(good, io.SeekStart)
	return err
}

// apply does to the oracle what a record says.
func (o *Oracle) apply(r record) error {
	off, n := o.first+r.block*o.unit, int64(r.blocks)*o.unit
	if r.block < 0 || r.block > int64(len(o.mu.base)) || !o.covers(off, n) {
		return fmt.Errorf("%w: %d blocks at %d", ErrJournal, r.blocks, r.block)
	}
	switch r.kind {
	case recRun:
		o.crashed(true)
	case recCrash:
		o.crashed(false)
	case recPattern, recZeroes:
		o.submitted(off, n, newVersion(r.v, r.kind == recZeroes))
	case recAck, recAckDurable:
		o.acknowledged(off, n, version(r.v), r.kind == recAckDurable)
	case recFlushed:
		o.flushed(r.v)
	case recSeen:
		o.blocks(off, n, func(i int64) { o.settleLocked(i, version(r.v), true) })
	default:
		return fmt.Errorf("%w: record of kind %d", ErrJournal, r.kind)
	}
	return nil
}

// submit records a write that is about to be sent and tells the oracle. The
// record is on the file after the next flush.
func (j *Journal) submit(off, n int64, zeroes bool) (version, uint32) {
	j.mu.Lock()
	defer j.mu.Unlock()
	write, run := j.Oracle.last()
	kind := recPattern
	if zeroes {
		kind = recZeroes
	}
	j.addRangeLocked(kind, off, n, write+1)
	return newVersion(write+1, zeroes), run
}

// ack records that write v is acknowledged.
func (j *Journal) ack(off, n int64, v version, durable bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	kind := recAck
	if durable {
		kind = recAckDurable
	}
	j.addRangeLocked(kind, off, n, uint64(v))
}

func (j *Journal) flushed(mark uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.addLocked(record{kind: recFlushed, v: mark})
}

// observe checks a block that was read. settled reports that it could have held
// another version until now.
func (j *Journal) observe(b []byte, off int64) (bad *Violation, settled bool) {
	bad, now, settled := j.Oracle.observe(b, off)
	if settled {
		j.mu.Lock()
		j.addRangeLocked(recSeen, off, j.Oracle.unit, uint64(now))
		j.mu.Unlock()
	}
	return bad, settled
}

// Crashed says that the target was lost and came back.
func (j *Journal) Crashed() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.addLocked(record{kind: recCrash})
}

func (j *Journal) addRangeLocked(kind recordKind, off, n int64, v uint64) {
	o := j.Oracle
	j.addLocked(record{kind: kind, blocks: uint32(n / o.unit), block: (off - o.first) / o.unit, v: v})
}

// bufferMax is how many bytes of acknowledgements wait for a write.
const bufferMax = 64 << 10

// addLocked changes the oracle by a record, just as a replay would, and keeps
// the record.
func (j *Journal) addLocked(r record) {
	if err := j.Oracle.apply(r); err != nil {
		panic(err) // our own record
	}
	j.mu.buf = r.append(j.mu.buf)
	if len(j.mu.buf) >= bufferMax {
		_ = j.flushLocked() // told by the next flush
	}
}

// flush writes what was recorded to the file.
func (j *Journal) flush() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.flushLocked()
}

func (j *Journal) flushLocked() error {
	if j.mu.err == nil && len(j.mu.buf) > 0 {
		if _, err := j.mu.file.Write(j.mu.buf); err != nil {
			j.mu.err = fmt.Errorf("write the journal: %w", err)
		}
	}
	j.mu.buf = j.mu.buf[:0]
	return j.mu.err
}

// Close writes what is left and closes the file.
func (j *Journal) Close() error {
	err := j.flush()
	return errors.Join(err, j.mu.file.Close())
}

func (r record) append(dst []byte) []byte {
	le := binary.LittleEndian
	start := len(dst)
	dst = le.AppendUint32(dst, uint32(r.kind))
	dst = le.AppendUint32(dst, r.blocks)
	dst = le.AppendUint64(dst, uint64(r.block))
	dst = le.AppendUint64(dst, r.v)
	dst = le.AppendUint32(dst, 0)
	return le.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

func decodeRecord(b []byte) (record, error) {
	le := binary.LittleEndian
	if crc32.Checksum(b[:recordLen-4], castagnoli) != le.Uint32(b[recordLen-4:]) {
		return record{}, fmt.Errorf("%w: wrong checksum", ErrJournal)
	}
	return record{recordKind(le.Uint32(b)), le.Uint32(b[4:]), int64(le.Uint64(b[8:])), le.Uint64(b[16:])}, nil
}

func (h *header) validate() error {
	if (h.unit != 512 && h.unit != 4096) || h.first < 0 || h.end <= h.first || h.end > h.size || h.first%h.unit != 0 || h.end%h.unit != 0 {
		return fmt.Errorf("bytes %d to %d of a device with %d in blocks of %d: give whole blocks within it", h.first, h.end, h.size, h.unit)
	}
	return nil
}

func (h *header) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, headerLen)
	le.PutUint64(b, journalMagic)
	le.PutUint32(b[8:], journalVersion)
	le.PutUint32(b[12:], uint32(h.unit))
	le.PutUint64(b[16:], h.volume)
	le.PutUint64(b[24:], uint64(h.first))
	le.PutUint64(b[32:], uint64(h.end))
	le.PutUint64(b[40:], uint64(h.size))
	var flags uint32
	if h.zeroed {
		flags |= flagZeroed
	}
	if h.writeCache {
		flags |= flagWriteCache
	}
	le.PutUint32(b[48:], flags)
	le.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

func decodeHeader(b []byte) (header, error) {
	le := binary.LittleEndian
	if le.Uint64(b) != journalMagic || crc32.Checksum(b[:60], castagnoli) != le.Uint32(b[60:]) {
		return header{}, fmt.Errorf("%w: no valid header", ErrJournal)
	}
	if v := le.Uint32(b[8:]); v != journalVersion {
		return header{}, fmt.Errorf("%w: version %d, this program reads %d", ErrJournal, v, journalVersion)
	}
	flags := le.Uint32(b[48:])
	if flags&^(flagZeroed|flagWriteCache) != 0 {
		return header{}, fmt.Errorf("%w: unknown flags %#x", ErrJournal, flags)
	}
	h := header{unit: int64(le.Uint32(b[12:])), volume: le.Uint64(b[16:]), first: int64(le.Uint64(b[24:])),
		end: int64(le.Uint64(b[32:])), size: int64(le.Uint64(b[40:])), zeroed: flags&flagZeroed != 0, writeCache: flags&flagWriteCache != 0}
	return h, h.validate()
}
