package iscsihost

import (
	"encoding/binary"
	"errors"
	"fmt"

	"blockd.dev/blockdev"
)

// Result is how a CDB of Command ended.
type Result struct {
	Status uint8 // SCSI status, 0 is GOOD
	Sense  Sense // valid with CHECK CONDITION (02h)
	N      int   // bytes received
}

// Err is nil for GOOD, else a *StatusError.
func (r Result) Err() error {
	if r.Status == statusGood {
		return nil
	}
	return &StatusError{r.Status, r.Sense}
}

// rawCall is a CDB that somebody waits for.
type rawCall struct {
	cdb    []byte
	data   []byte
	out    bool
	result Result
	err    error
	done   chan struct{}
}

// Command sends any CDB of at most 16 bytes and waits for its end. With out
// set data is sent, else what the target sends fills it. A unit attention is
// reported like any status. The error is that of the session.
func (s *Session) Command(cdb, data []byte, out bool) (Result, error) {
	if len(cdb) > 16 {
		return Result{}, fmt.Errorf("iscsihost: CDB of %d bytes: use at most 16", len(cdb))
	}
	c := &rawCall{cdb: cdb, data: data, out: out && len(data) > 0, done: make(chan struct{})}
	s.mu.Lock()
	err := s.startLocked(job{raw: c})
	s.mu.Unlock()
	if err != nil {
		return Result{}, err
	}
	s.sock.Flush()
	<-c.done
	return c.result, c.err
}

// shape is what is known of the logical unit.
type shape struct {
	geometry   blockdev.Geometry
	writeCache bool
	unmap      bool // UNMAP works and unmapped blocks read as zeroes
	unmapSame  bool // WRITE SAME may unmap

	maxTransfer, maxCompare, maxSame, maxUnmap int64 // bytes
}

// maxBytes is the longest request that one command can do; longer ones are
// split.
func (sh *shape) maxBytes(op blockdev.Op) int64 {
	switch op {
	case blockdev.OpRead, blockdev.OpWrite:
		return sh.maxTransfer
	case blockdev.OpCompareAndWrite:
		return sh.maxCompare
	case blockdev.OpUnmap:
		if sh.unmap {
			return sh.maxUnmap
		}
		return sh.maxSame
	case blockdev.OpWriteZeroes:
		return sh.maxSame
	}
	return 1 << 62
}

// maxTransferDefault bounds transfers to a unit that names no limit.
const maxTransferDefault = 1 << 20

// probe asks the logical unit what it is.
func (s *Session) probe() (*shape, error) {
	if err := s.settle(); err != nil {
		return nil, err
	}
	capacity := make([]byte, 32)
	if _, err := s.ask([]byte{opServiceIn16, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0}, capacity, 32); err != nil {
		return nil, fmt.Errorf("READ CAPACITY(16): %w", err)
	}
	blocks := binary.BigEndian.Uint64(capacity) + 1
	size := int64(binary.BigEndian.Uint32(capacity[8:]))
	if size != 512 && size != 4096 {
		return nil, fmt.Errorf("blocks of %d bytes: 512 and 4096 are supported", size)
	}
	if blocks == 0 || blocks > 1<<50 {
		return nil, fmt.Errorf("%d blocks are not supported", blocks)
	}
	sh := &shape{maxTransfer: maxTransferDefault, maxCompare: size, maxSame: maxTransferDefault}
	sh.geometry = blockdev.Geometry{
		SizeBytes:         int64(blocks) * size,
		BlockSize:         int(size),
		PhysicalBlockSize: int(size) << (capacity[13] & 0xf),
		Thin:              capacity[14]&0x80 != 0,
	}
	zeroes := capacity[14]&0x40 != 0 // LBPRZ
	if err := s.probeLimits(sh, size, zeroes); err != nil {
		return nil, err
	}
	return sh, s.probeModes(sh)
}

// probeLimits reads the Block Limits and Logical Block Provisioning pages,
// where the unit has them.
func (s *Session) probeLimits(sh *shape, size int64, zeroes bool) error {
	b := make([]byte, 64)
	n, err := s.vpd(0xb0, b)
	if err != nil {
		return err
	}
	u32 := func(at int) int64 { return int64(binary.BigEndian.Uint32(b[at:])) }
	if n >= 16 {
		sh.maxCompare = int64(b[5]) * size
		if v := u32(8); v != 0 {
			sh.maxTransfer = min(v*size, 1<<30)
		}
		sh.geometry.OptimalIOBytes = int(min(u32(12)*size, 1<<30))
	}
	if n >= 44 {
		sh.maxUnmap = min(u32(20), 1<<31) * size
		// The field after 4 KiB is the granularity in blocks.
		sh.geometry.UnmapGranularity = int(min(u32(28)*size, 1<<30))
		if v := binary.BigEndian.Uint64(b[36:]); v != 0 {
			sh.maxSame = int64(min(v, 1<<31)) * size
		}
	}
	if !sh.geometry.Thin {
		sh.geometry.UnmapGranularity = 0
		return nil
	}
	if n, err = s.vpd(0xb2, b); err != nil {
		return err
	}
	if n >= 8 {
		zeroes = zeroes || b[5]>>2&7 != 0
		sh.unmap = b[5]&0x80 != 0 && sh.maxUnmap > 0 && zeroes
		sh.unmapSame = b[5]&0x40 != 0
	}
	return nil
}

// probeModes reads WP and WCE.
func (s *Session) probeModes(sh *shape) error {
	b := make([]byte, 64)
	res, err := s.Command([]byte{opModeSense6, 0x08, 0x08, 0, byte(len(b)), 0}, b, false)
	if err != nil || res.Status != statusGood || res.N < 4 {
		return err // a unit without the page has no cache to tell of
	}
	sh.geometry.ReadOnly = b[2]&0x80 != 0
	if at := 4 + int(b[3]); res.N >= at+3 && b[at]&0x3f == 0x08 {
		sh.writeCache = b[at+2]&0x04 != 0
	}
	return nil
}

// settle takes the unit attentions that a new session begins with.
func (s *Session) settle() error {
	var last error
	for range unitAttentionsMax {
		res, err := s.Command([]byte{opTestUnitReady, 0, 0, 0, 0, 0}, nil, false)
		if err != nil || res.Status == statusGood {
			return err
		}
		if last = res.Err(); res.Sense.Key != keyUnitAttention {
			break
		}
	}
	return fmt.Errorf("not ready: %w", last)
}

// ask sends a CDB and wants at least least bytes of data; it goes through
// unit attentions.
func (s *Session) ask(cdb, data []byte, least int) (int, error) {
	for range unitAttentionsMax {
		res, err := s.Command(cdb, data, false)
		switch {
		case err != nil:
			return 0, err
		case res.Status == statusCheckCondition && res.Sense.Key == keyUnitAttention:
			continue
		case res.Status != statusGood:
			return 0, res.Err()
		case res.N < least:
			return 0, fmt.Errorf("%d bytes of %d", res.N, least)
		}
		return res.N, nil
	}
	return 0, errors.New("too many unit attentions")
}

// vpd reads a vital product data page and returns its length, 0 when the unit
// has no such page.
func (s *Session) vpd(page byte, b []byte) (int, error) {
	n, err := s.ask([]byte{opInquiry, 1, page, 0, byte(len(b)), 0}, b, 4)
	var st *StatusError
	if errors.As(err, &st) && st.Sense.Key == keyIllegalRequest {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("VPD page %02x: %w", page, err)
	}
	return min(n, 4+int(binary.BigEndian.Uint16(b[2:]))), nil
}

// attention takes note of a unit attention. A changed capacity is read again
// by a goroutine of its own, and announced.
func (s *Session) attention(sense Sense) {
	s.cfg.Attention(sense)
	if sense.ASC != ascCapacityChanged || s.shape.Load() == nil || s.refreshing.Swap(true) {
		return
	}
	s.tasks.Add(1)
	go func() {
		defer s.tasks.Done()
		sh, err := s.probe()
		s.refreshing.Store(false)
		if err != nil {
			return // the session has ended, or the next attention tells more
		}
		old := s.shape.Swap(sh).geometry
		if old.SizeBytes != sh.geometry.SizeBytes {
			s.watchers.Notify(blockdev.ChangeSize)
		}
		if old.ReadOnly != sh.geometry.ReadOnly {
			s.watchers.Notify(blockdev.ChangeReadOnly)
		}
	}()
}

// splitter does one request as several, one after the other.
type splitter struct {
	session *Session
	whole   *blockdev.Request
	part    blockdev.Request
	max     int64
	at      int64
	batch   [1]*blockdev.Request
}

// split does r in parts of at most max bytes.
func (s *Session) split(r *blockdev.Request, maxBytes int64) {
	if r.Op == blockdev.OpCompareAndWrite || maxBytes <= 0 {
		err := fmt.Errorf("iscsihost: the target takes at most %d bytes", maxBytes)
		blockdev.Complete(r, blockdev.NewError(blockdev.ErrInvalid, r, -1, err))
		return
	}
	p := &splitter{session: s, whole: r, max: maxBytes}
	p.part = blockdev.Request{Op: r.Op, FUA: r.FUA, NoUnmap: r.NoUnmap}
	p.part.Done = func(part *blockdev.Request) {
		p.at += part.Length
		if part.Err != nil || p.at == r.Length {
			blockdev.Complete(r, part.Err)
			return
		}
		p.next()
	}
	p.next()
}

func (p *splitter) next() {
	n := min(p.max, p.whole.Length-p.at)
	p.part.Offset, p.part.Length = p.whole.Offset+p.at, n
	if len(p.whole.Data) > 0 {
		p.part.Data = cut(nil, p.whole.Data, int(p.at), int(n))
	}
	p.batch[0] = &p.part
	p.session.Submit(p.batch[:])
}
