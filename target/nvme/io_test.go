package nvme

import (
	"bytes"
	"testing"

	"blockd.dev/blockdev"
)

// NVM Command Set 1.0 §3.2.4, §3.2.6: data arrives where it should; ranges and
// sizes are checked.
func TestReadAndWrite(t *testing.T) {
	b := newBed(t)
	h := b.host
	h.want(Success, rw(OpWrite, 5, 3, 0), fill(3*bedBlock, 7), 0)
	if !bytes.Equal(b.blocksAt(4, 5), append(append(fill(bedBlock, 0), fill(3*bedBlock, 7)...), fill(bedBlock, 0)...)) {
		t.Error("the write is not where it should be")
	}
	if r := h.want(Success, rw(OpRead, 4, 2, 0), nil, 2*bedBlock); !bytes.Equal(r.data, append(fill(bedBlock, 0), fill(bedBlock, 7)...)) {
		t.Error("the read differs")
	}
	const most = MaxTransferBytes / bedBlock
	h.want(Success, rw(OpRead, 0, most, 0), nil, MaxTransferBytes)
	h.want(InvalidField|DNR, rw(OpRead, 0, most+1, 0), nil, MaxTransferBytes+bedBlock)
	h.want(LBAOutOfRange|DNR, rw(OpRead, bedBlocks, 1, 0), nil, bedBlock)
	h.want(LBAOutOfRange|DNR, rw(OpRead, bedBlocks-1, 2, 0), nil, 2*bedBlock)
	h.want(LBAOutOfRange|DNR, rw(OpWrite, 1<<63, 1, 0), fill(bedBlock, 1), 0)
	h.want(LBAOutOfRange|DNR, rw(OpRead, ^uint64(0), 1, 0), nil, bedBlock)
	h.want(InvalidField|DNR, rw(OpRead, 0, 1, 1<<29), nil, bedBlock) // PRINFO
	h.want(InvalidSGLLength|DNR, rw(OpRead, 0, 1, 0), nil, 2*bedBlock)
	h.want(InvalidSGLLength|DNR, rw(OpWrite, 0, 2, 0), fill(bedBlock, 1), 0)
	e := rw(OpRead, 0, 1, 0)
	e[1] = 0
	h.want(InvalidField|DNR, e, nil, bedBlock) // PRP
	e = rw(OpRead, 0, 1, 0)
	e[39] = byte(SGLInCapsule)
	h.want(InvalidSGLType|DNR, e, nil, bedBlock)
	e[39] = 0x10
	h.want(InvalidSGLType|DNR, e, nil, bedBlock)
	for _, nsid := range []uint32{0, 2, NSIDMax, NSIDMax + 1, NSIDAll} {
		e := rw(OpRead, 0, 1, 0)
		le.PutUint32(e[4:], nsid)
		h.want(InvalidNamespace|DNR, e, nil, bedBlock)
	}
}

// A transport that got less than the command needs may still execute it: it
// ends without effect.
func TestShortData(t *testing.T) {
	b := newBed(t)
	c := b.prepare(b.host.io, rw(OpWrite, 0, 2, 0), fill(2*bedBlock, 1), 0)
	c.OutLen = bedBlock
	b.host.io.Execute(c.Command)
	if r := c.wait(); r.status != DataTransferError || !bytes.Equal(b.blocksAt(0, 2), fill(2*bedBlock, 0)) {
		t.Errorf("got %v", r.status)
	}
}

// What a failed device means to the host. DNR only where nothing can pass by
// itself (NVMe Base 2.0 figure "Status Field", bit 31).
func TestDeviceErrors(t *testing.T) {
	for _, c := range []struct {
		kind        string
		read, write Status
	}{
		{"busy", CommandInterrupted, CommandInterrupted},
		{"medium", UnrecoveredReadError, WriteFault},
		{"no-space", CapacityExceeded, CapacityExceeded},
		{"read-only", NamespaceWriteProtected, NamespaceWriteProtected},
		{"fenced", ANAInaccessibleStatus, ANAInaccessibleStatus},
		{"io", InternalError, InternalError},
	} {
		b := newBed(t)
		b.fault("any error=" + c.kind)
		b.host.want(c.read, rw(OpRead, 0, 1, 0), nil, bedBlock)
		b.host.want(c.write, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
		b.host.want(c.write, sqe(OpFlush, NSIDAll), nil, 0)
		b.host.want(c.read, rw(OpVerify, 0, 1, 0), nil, 0)
		b.host.want(c.read, rw(OpCompare, 0, 1, 0), fill(bedBlock, 0), 0)
	}
	b := newBed(t)
	b.faults.Vanish()
	b.host.want(NamespaceNotReady, rw(OpRead, 0, 1, 0), nil, bedBlock)
}

// With Host Behavior Support ACRE=1 a busy device costs the host CRDT1 of
// delay instead of a retry at once (NVMe Base 2.0 §5.27.1.18).
func TestBusyAsksForADelayedRetry(t *testing.T) {
	b := newBed(t)
	if crdt := le.Uint16(b.host.identify(cnsController, 0)[128:]); crdt == 0 {
		t.Error("CRDT1 is 0: Linux enables ACRE only where it is not")
	}
	p := make([]byte, hostBehaviorBytes)
	p[0] = 1
	b.host.wantAdmin(Success, sqe(OpSetFeatures, 0, uint32(featHostBehavior)), p, 0)
	b.fault("read error=busy")
	b.host.want(CommandInterrupted|crd1, rw(OpRead, 0, 1, 0), nil, bedBlock)
}

// A shared volume without an owner is not the host's to give up: the status tells of the path, and
// a host with several tries the others.
func TestBusySharedVolumeIsAMatterOfThePath(t *testing.T) {
	b := newBed(t, func(c *Config, _ *Deps) { c.Namespaces[0].Shared = true })
	b.fault("any error=busy")
	b.host.want(ANATransition, rw(OpRead, 0, 1, 0), nil, bedBlock)
	b.host.want(ANATransition, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
	b.host.want(ANATransition, sqe(OpFlush, 1), nil, 0)
	p := make([]byte, hostBehaviorBytes)
	p[0] = 1
	b.host.wantAdmin(Success, sqe(OpSetFeatures, 0, uint32(featHostBehavior)), p, 0)
	b.host.want(ANATransition|crd1, rw(OpRead, 0, 1, 0), nil, bedBlock)
}

// recorder notes what the device is asked.
type recorder struct {
	blockdev.Device
	seen []blockdev.Request
}

func (r *recorder) Submit(batch []*blockdev.Request) {
	for _, q := range batch {
		r.seen = append(r.seen, blockdev.Request{Op: q.Op, FUA: q.FUA, NoUnmap: q.NoUnmap, Offset: q.Offset, Length: q.Length})
	}
	r.Device.Submit(batch)
}

func (r *recorder) take() []blockdev.Request {
	s := r.seen
	r.seen = nil
	return s
}

// NVMe Base 2.0 §5.27.1.4 and NVM Command Set 1.0 §3.2.6: FUA, and no write
// cache or a disabled one, make each write durable; FUA reads come after a
// flush.
func TestDurability(t *testing.T) {
	for _, cache := range []bool{false, true} {
		var rec *recorder
		b := newBed(t, func(c *Config, _ *Deps) {
			rec = &recorder{Device: c.Namespaces[0].Device}
			c.Namespaces[0].Device, c.Namespaces[0].WriteCache = rec, cache
		})
		h := b.host
		h.want(Success, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
		h.want(Success, rw(OpWrite, 0, 1, cdw12FUA), fill(bedBlock, 1), 0)
		h.want(Success, rw(OpWriteZeroes, 0, 1, cdw12DEAC), nil, 0)
		h.want(Success, rw(OpWriteZeroes, 0, 1, cdw12FUA), nil, 0)
		s := rec.take()
		if s[0].FUA == cache || !s[1].FUA || s[2].FUA == cache || !s[3].FUA || s[2].NoUnmap || !s[3].NoUnmap {
			t.Errorf("cache %v: %+v", cache, s)
		}
		h.want(Success, rw(OpRead, 0, 1, cdw12FUA), nil, bedBlock)
		if s = rec.take(); cache != (len(s) == 2 && s[0].Op == blockdev.OpFlush) {
			t.Errorf("cache %v, FUA read: %+v", cache, s)
		}
		if vwc := h.identify(cnsController, 0)[525]; vwc&1 == 1 != cache {
			t.Errorf("cache %v: VWC is %#x", cache, vwc)
		}
		if !cache {
			continue
		}
		h.wantAdmin(Success, sqe(OpSetFeatures, 0, uint32(featWriteCache), 0), nil, 0)
		if s = rec.take(); len(s) != 1 || s[0].Op != blockdev.OpFlush {
			t.Errorf("switching the cache off: %+v", s)
		}
		h.want(Success, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
		if s = rec.take(); !s[0].FUA {
			t.Error("a write with the cache off is not durable")
		}
	}
}

func TestFlush(t *testing.T) {
	b := newBed(t)
	b.host.want(Success, sqe(OpFlush, 1), nil, 0)
	b.host.want(Success, sqe(OpFlush, NSIDAll), nil, 0)
	b.host.want(InvalidNamespace|DNR, sqe(OpFlush, 2), nil, 0)
	b.fault("flush error=io")
	b.host.want(InternalError, sqe(OpFlush, 1), nil, 0)
	b.host.want(InternalError, sqe(OpFlush, NSIDAll), nil, 0)
}

// Compare of more than one piece finds a difference in its last byte (NVM
// Command Set 1.0 §3.2.1).
func TestCompare(t *testing.T) {
	b := newBed(t)
	const n = MaxTransferBytes / bedBlock
	data := fill(MaxTransferBytes, 9)
	b.host.want(Success, rw(OpWrite, 1, n, 0), data, 0)
	b.host.want(Success, rw(OpCompare, 1, n, 0), data, 0)
	data[len(data)-1]++
	b.host.want(CompareFailure|DNR, rw(OpCompare, 1, n, 0), data, 0)
}

// NVM Command Set 1.0 §2.1.5: a fused pair of many blocks is atomic, in the
// order of the queue whatever order the data arrives in.
func TestFusedCompareAndWrite(t *testing.T) {
	b := newBed(t)
	h := b.host
	const n = 64
	old, next := fill(n*bedBlock, 0), fill(n*bedBlock, 5)
	pair := func(compare, write []byte, reversed bool) (Status, Status) {
		x := b.prepare(h.io, fuse(rw(OpCompare, 3, n, 0), fuseFirst), compare, 0)
		if reversed {
			y := b.prepare(h.io, fuse(rw(OpWrite, 3, n, 0), fuseSecond), write, 0)
			h.io.Execute(y.Command)
			if x.finished() || y.finished() {
				t.Error("a half ended alone")
			}
			h.io.Execute(x.Command)
			return x.wait().status, y.wait().status
		}
		h.io.Execute(x.Command)
		y := b.start(h.io, fuse(rw(OpWrite, 3, n, 0), fuseSecond), write, 0)
		return x.wait().status, y.wait().status
	}
	if s1, s2 := pair(old, next, false); s1 != Success || s2 != Success || !bytes.Equal(b.blocksAt(3, n), next) {
		t.Errorf("equal: %v, %v", s1, s2)
	}
	if s1, s2 := pair(old, old, true); s1 != CompareFailure|DNR || s2 != AbortedFailedFused || !bytes.Equal(b.blocksAt(3, n), next) {
		t.Errorf("different: %v, %v", s1, s2)
	}
	if s1, s2 := pair(next, old, true); s1 != Success || s2 != Success || !bytes.Equal(b.blocksAt(3, n), old) {
		t.Errorf("equal: %v, %v", s1, s2)
	}
}

// What is not a pair, and what it does to the other half.
func TestBrokenFusedPairs(t *testing.T) {
	block := fill(bedBlock, 0)
	first := fuse(rw(OpCompare, 0, 1, 0), fuseFirst)
	second := fuse(rw(OpWrite, 0, 1, 0), fuseSecond)
	for _, c := range []struct {
		name          string
		first, second [64]byte
		want1, want2  Status
	}{
		{"followed by another command", first, rw(OpWrite, 0, 1, 0), AbortedMissingFused, Success},
		{"followed by a first half", first, first, AbortedMissingFused, 0xffff},
		{"first half refused", fuse(rw(OpCompare, bedBlocks, 1, 0), fuseFirst), second, LBAOutOfRange | DNR, AbortedFailedFused},
		{"second half refused", first, fuse(rw(OpWrite, bedBlocks, 1, 0), fuseSecond), AbortedFailedFused, LBAOutOfRange | DNR},
		{"other blocks", first, fuse(rw(OpWrite, 1, 1, 0), fuseSecond), AbortedFailedFused, InvalidField | DNR},
		{"second is no write", first, fuse(rw(OpCompare, 0, 1, 0), fuseSecond), AbortedFailedFused, InvalidField | DNR},
		{"first is no compare", fuse(rw(OpWrite, 0, 1, 0), fuseFirst), second, InvalidField | DNR, AbortedFailedFused},
		{"no first", rw(OpWrite, 0, 1, 0), second, Success, AbortedMissingFused},
		{"reserved value", fuse(rw(OpWrite, 0, 1, 0), 3), rw(OpWrite, 0, 1, 0), InvalidField | DNR, Success},
	} {
		b := newBed(t)
		x := b.start(b.host.io, c.first, block, 0)
		y := b.start(b.host.io, c.second, block, 0)
		if r := x.wait(); r.status != c.want1 {
			t.Errorf("%s: first is %v, want %v", c.name, r.status, c.want1)
		}
		if c.want2 == 0xffff { // it waits for its own second half
			b.host.io.Disconnect()
			c.want2 = AbortedSQDeletion
		}
		if r := y.wait(); r.status != c.want2 {
			t.Errorf("%s: second is %v, want %v", c.name, r.status, c.want2)
		}
	}
	b := newBed(t)
	big := fuse(rw(OpCompare, 0, fusedMaxBlocks+1, 0), fuseFirst)
	x := b.start(b.host.io, big, fill((fusedMaxBlocks+1)*bedBlock, 0), 0)
	y := b.start(b.host.io, fuse(rw(OpWrite, 0, fusedMaxBlocks+1, 0), fuseSecond), fill((fusedMaxBlocks+1)*bedBlock, 0), 0)
	if s1, s2 := x.wait().status, y.wait().status; s1 != AbortedFailedFused || s2 != InvalidField|DNR {
		t.Errorf("above ACWU: %v, %v", s1, s2)
	}
	b.host.wantAdmin(InvalidField|DNR, fuse(sqe(OpKeepAlive, 0), fuseFirst), nil, 0)
}

// A transport that gives one half up takes the other with it.
func TestCancelOfAFusedHalf(t *testing.T) {
	b := newBed(t)
	x := b.start(b.host.io, fuse(rw(OpCompare, 0, 1, 0), fuseFirst), fill(bedBlock, 0), 0)
	y := b.prepare(b.host.io, fuse(rw(OpWrite, 0, 1, 0), fuseSecond), fill(bedBlock, 1), 0)
	b.host.io.Cancel(y.Command)
	y.sg.Release()
	if r := x.wait(); r.status != AbortedFailedFused {
		t.Errorf("first is %v", r.status)
	}
	x = b.prepare(b.host.io, fuse(rw(OpCompare, 0, 1, 0), fuseFirst), fill(bedBlock, 0), 0)
	b.host.io.Cancel(x.Command)
	x.sg.Release()
	b.host.want(AbortedFailedFused, fuse(rw(OpWrite, 0, 1, 0), fuseSecond), fill(bedBlock, 1), 0)
}

func TestWriteZeroesAndVerify(t *testing.T) {
	b := newBed(t)
	h := b.host
	h.want(Success, rw(OpWrite, 0, 16, 0), fill(16*bedBlock, 1), 0)
	h.want(Success, rw(OpWriteZeroes, 8, bedBlocks-8, cdw12DEAC), nil, 0)
	if !bytes.Equal(b.blocksAt(7, 2), append(fill(bedBlock, 1), fill(bedBlock, 0)...)) {
		t.Error("zeroes are not where they should be")
	}
	h.want(LBAOutOfRange|DNR, rw(OpWriteZeroes, 1, bedBlocks, 0), nil, 0)
	h.want(Success, rw(OpVerify, 0, bedBlocks, 0), nil, 0)
	b.fault("read range=2097152-2097664 error=medium")
	h.want(UnrecoveredReadError, rw(OpVerify, 0, bedBlocks, 0), nil, 0)
}

// rangeList encodes Dataset Management ranges of (blocks, LBA).
func rangeList(r ...uint64) (p []byte) {
	for i := 0; i < len(r); i += 2 {
		p = le.AppendUint32(append(p, 0, 0, 0, 0), uint32(r[i]))
		p = le.AppendUint64(p, r[i+1])
	}
	return p
}

// NVM Command Set 1.0 §3.2.3. Linux always sends 4096 bytes of ranges,
// whatever their number; they are checked before the first is freed.
func TestDatasetManagement(t *testing.T) {
	b := newBed(t)
	h := b.host
	h.want(Success, rw(OpWrite, 0, 64, 0), fill(64*bedBlock, 1), 0)
	e := sqe(OpDatasetManagement, 1, 1, dsmDeallocate)
	h.want(Success, e, append(rangeList(8, 0, 8, 16), make([]byte, 4096-32)...), 0)
	want := fill(64*bedBlock, 1)
	clear(want[:8*bedBlock])
	clear(want[16*bedBlock : 24*bedBlock])
	if !bytes.Equal(b.blocksAt(0, 64), want) {
		t.Error("freed blocks are wrong")
	}
	h.want(LBAOutOfRange|DNR, e, rangeList(8, 8, 8, bedBlocks), 0)
	h.want(LBAOutOfRange|DNR, e, rangeList(8, 8, 8, ^uint64(0)-4), 0)
	if !bytes.Equal(b.blocksAt(0, 64), want) {
		t.Error("a refused command freed blocks")
	}
	h.want(InvalidSGLLength|DNR, e, rangeList(8, 0), 0)
	h.want(Success, sqe(OpDatasetManagement, 1, 0, 1), rangeList(8, 32), 0) // a hint
	h.want(Success, sqe(OpDatasetManagement, 1, 255, dsmDeallocate), make([]byte, 4096), 0)
	b.fault("unmap error=io")
	h.want(InternalError, e, rangeList(8, 0, 8, 16), 0)
}

// copyList encodes source ranges of (LBA, blocks), format 0.
func copyList(r ...uint64) (p []byte) {
	for i := 0; i < len(r); i += 2 {
		b := make([]byte, copyRangeBytes)
		le.PutUint64(b[8:], r[i])
		le.PutUint16(b[16:], uint16(r[i+1]-1))
		p = append(p, b...)
	}
	return p
}

// NVM Command Set 1.0 §3.2.2.
func TestCopy(t *testing.T) {
	b := newBed(t)
	h := b.host
	for i := range 4 {
		h.want(Success, rw(OpWrite, uint64(i*600), 600, 0), fill(600*bedBlock, byte(i+1)), 0)
	}
	e := sqe(OpCopy, 1, 4000, 0, 1)
	h.want(Success, e, copyList(1800, 600, 600, 600), 0) // more than a chunk
	if !bytes.Equal(b.blocksAt(4000, 1200), append(fill(600*bedBlock, 4), fill(600*bedBlock, 2)...)) {
		t.Error("the copy differs")
	}
	h.want(CommandSizeLimit|DNR, e, copyList(0, 1, 0, copyRangeBlocks+1), 0)
	h.want(CommandSizeLimit|DNR, sqe(OpCopy, 1, 0, 0, copyRanges), make([]byte, 8<<10), 0)
	if r := h.want(LBAOutOfRange|DNR, e, copyList(0, 1, bedBlocks-1, 2), 0); r.result != 1 {
		t.Errorf("Dword 0 is %d, want the range at fault", r.result)
	}
	h.want(LBAOutOfRange|DNR, sqe(OpCopy, 1, bedBlocks-1, 0, 1), copyList(0, 1, 0, 1), 0)
	h.want(InvalidField|DNR, sqe(OpCopy, 1, 0, 0, 1<<8), copyList(0, 1), 0) // format 1
	h.want(InvalidSGLLength|DNR, e, copyList(0, 1), 0)
	b.fault("read range=614400-614912 error=medium") // block 1200
	if r := h.want(UnrecoveredReadError, e, copyList(0, 600, 1200, 600), 0); r.result != 1 {
		t.Errorf("Dword 0 is %d, want the range that was not copied", r.result)
	}
}

// NVMe Base 2.0 §5.1: Abort ends what can still be ended, before it completes
// itself, and says when it could not.
func TestAbort(t *testing.T) {
	b := newBed(t)
	h := b.host
	abortOf := func(c *call) *call {
		return b.start(h.admin, sqe(OpAbort, 0, uint32(c.q.ID())|uint32(c.CID())<<16), nil, 0)
	}
	aer := b.start(h.admin, sqe(OpAsyncEventRequest, 0), nil, 0)
	if r := abortOf(aer).wait(); r.result != 0 || aer.wait().status != CommandAborted {
		t.Errorf("event request: Abort gives %d", r.result)
	}
	x := b.prepare(h.io, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
	a := abortOf(x)
	if a.finished() {
		t.Error("Abort completed before the command")
	}
	h.io.Execute(x.Command)
	if r := a.wait(); r.result != 0 || x.wait().status != CommandAborted || !bytes.Equal(b.blocksAt(0, 1), fill(bedBlock, 0)) {
		t.Error("a command that waits for its data was not aborted")
	}
	b.fault("read hang")
	r := b.start(h.io, rw(OpRead, 0, 1, 0), nil, bedBlock)
	if abortOf(r).wait().result != 1 {
		t.Error("a read in the device was said to be aborted")
	}
	v := b.start(h.io, rw(OpVerify, 0, bedBlocks, 0), nil, 0)
	a = abortOf(v)
	b.faults.Clear()
	b.faults.Resume()
	if r.wait().status != Success || v.wait().status != CommandAborted || a.wait().result != 0 {
		t.Error("Verify was not aborted between two pieces")
	}
	if c := b.start(h.admin, sqe(OpAbort, 0, 9|7<<16), nil, 0).wait(); c.status != Success || c.result != 1 {
		t.Error("Abort on an unknown queue")
	}
	first := b.start(h.io, fuse(rw(OpCompare, 0, 1, 0), fuseFirst), fill(bedBlock, 0), 0)
	if abortOf(first).wait().result != 0 || first.wait().status != CommandAborted {
		t.Error("half of a pair was not aborted")
	}
	h.want(AbortedFailedFused, fuse(rw(OpWrite, 0, 1, 0), fuseSecond), fill(bedBlock, 1), 0)
}

// Without a buffer to work with a command may be sent again.
func TestExhaustedArenaMayPass(t *testing.T) {
	b := newBed(t)
	c := b.prepare(b.host.io, rw(OpVerify, 0, 8, 0), nil, 0)
	var taken []interface{ Release() }
	for {
		buf := b.arena.Get(4 << 10)
		if buf == nil {
			break
		}
		taken = append(taken, buf)
	}
	b.host.io.Execute(c.Command)
	s := c.wait().status
	for _, buf := range taken {
		buf.Release()
	}
	if s != CommandInterrupted {
		t.Errorf("got %v", s)
	}
	b.host.want(Success, rw(OpVerify, 0, 8, 0), nil, 0)
}
