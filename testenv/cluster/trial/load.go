package trial

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/testenv/progress"
	"blockd.dev/tools/blockbench/history"
	"blockd.dev/tools/blockbench/multipath"
)

const (
	blockBytes  = 4096
	regionBytes = 64 << 10 // a chunk of the store: each block needs room of its own

	// windows of the volume take turns, so that a fault finds room that was never
	// written and blocks that were. Each lies on all extents.
	windows      = 8
	windowBlocks = 256

	hosts        = 6
	iscsiHosts   = 2 // of these
	readersMax   = 8
	readerClient = 100
	readerHost   = 100 // whose name readers have

	// thinkTime lies between two operations of a host: the load shares its processors
	// with the cluster.
	thinkTime = 4 * time.Millisecond
)

// offset of a block on the volume. Odd ones are the last of their region, even ones the first: so
// each odd one is the neighbour of the next, across the border of two regions, and every eighth time that of two
// extents, which may have copies on different disks.
func offset(block int64) int64 {
	if block%2 == 1 {
		return (block+1)*regionBytes - blockBytes
	}
	return block * regionBytes
}

// neighbours are a block and the one beside it on the volume, in order. The first of a window has
// none, nor has the last.
func neighbours(block int64) (from int64, count int) {
	switch from = block - 1 + block%2; {
	case from/windowBlocks != block/windowBlocks || from < 0 || (from+1)/windowBlocks != block/windowBlocks:
		return block, 1
	default:
		return from, 2
	}
}

// fill writes a value all over a block. A block that was never written holds 0.
func fill(b []byte, block int64, value uint64) {
	for at := 0; at < len(b); at += 16 {
		binary.LittleEndian.PutUint64(b[at:], value)
		binary.LittleEndian.PutUint64(b[at+8:], uint64(block))
	}
	if value == 0 {
		clear(b)
	}
}

// errTorn is a block that is not all of one write.
var errTorn = errors.New("holds more than one value, or another block's")

// valueOf is what a block holds.
func valueOf(b []byte, block int64) (uint64, error) {
	value := binary.LittleEndian.Uint64(b)
	want := make([]byte, len(b))
	fill(want, block, value)
	if string(want) != string(b) {
		return 0, fmt.Errorf("block %d: %w", block, errTorn)
	}
	return value, nil
}

// host does one operation at a time and records it, for each block that it is on.
type host struct {
	rec    *history.Recorder
	client int
	dev    blockdev.Device
	rng    *rand.Rand
	buf    []byte
	last   map[int64]uint64 // what it saw or wrote last, to compare with
	again  *resent
}

// resent are the requests that change blocks and were sent again.
type resent struct {
	mu sync.Mutex
	by map[*blockdev.Request]bool
}

// note is multipath.Config.Again.
func (s *resent) note(r *blockdev.Request, _ error) {
	if r.Op == blockdev.OpRead {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.by == nil {
		s.by = map[*blockdev.Request]bool{}
	}
	s.by[r] = true
}

// took tells whether a request that has ended was among them.
func (s *resent) took(r *blockdev.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer delete(s.by, r)
	return s.by[r]
}

func (t *Trial) newHost(client int, dev blockdev.Device) *host {
	return &host{rec: t.rec, again: &t.again, client: client, dev: dev, rng: rand.New(rand.NewPCG(uint64(client), rand.Uint64())),
		buf: make([]byte, 2*blockBytes), last: map[int64]uint64{}}
}

func (h *host) read(block int64) error { return h.readRun(block, 1) }

// readRun reads one block, or two that are neighbours.
func (h *host) readRun(from int64, count int) (err error) {
	call, b := h.rec.Now(), h.buf[:count*blockBytes]
	err = blockdev.ReadAt(h.dev, b, offset(from))
	ops := make([]history.Op, count)
	for i := range ops {
		ops[i] = history.Op{Client: h.client, Kind: history.Read, Block: from + int64(i), Call: call}
		if err == nil {
			ops[i].Value, err = valueOf(b[i*blockBytes:][:blockBytes], ops[i].Block)
		}
	}
	for _, o := range ops {
		o.Open = err != nil
		h.rec.Add(o)
		h.last[o.Block] = o.Value
	}
	return err
}

func (h *host) write(block int64) error { return h.writeRun(block, 1) }

// writeRun writes one block, or two that are neighbours, each with a value of its own.
func (h *host) writeRun(from int64, count int) error {
	b, ops := h.buf[:count*blockBytes], make([]history.Op, count)
	for i := range ops {
		ops[i] = history.Op{Kind: history.Write, Block: from + int64(i), Value: h.rec.NextValue()}
		fill(b[i*blockBytes:][:blockBytes], ops[i].Block, ops[i].Value)
	}
	return h.change(&blockdev.Request{Op: blockdev.OpWrite, Offset: offset(from), Length: int64(len(b)), Data: [][]byte{b}}, ops)
}

// clear unmaps blocks or writes zeroes to them, and to all that lies between them.
func (h *host) clear(op blockdev.Op, from int64, count int) error {
	ops := make([]history.Op, count)
	for i := range ops {
		ops[i] = history.Op{Kind: history.Clear, Block: from + int64(i)}
	}
	end := offset(from+int64(count)-1) + blockBytes
	return h.change(&blockdev.Request{Op: op, NoUnmap: op == blockdev.OpWriteZeroes && h.rng.IntN(2) == 0,
		Offset: offset(from), Length: end - offset(from)}, ops)
}

// change sends a request and records what it did to each block.
func (h *host) change(r *blockdev.Request, ops []history.Op) error {
	call := h.rec.Now()
	err := blockdev.Do(h.dev, r)
	refused, again := errors.Is(err, blockdev.ErrNoSpace), h.again.took(r)
	for _, o := range ops {
		o.Client, o.Call, o.Refused, o.Open, o.Again = h.client, call, refused, err != nil && !refused, again
		h.rec.Add(o)
		if !refused {
			h.last[o.Block] = o.Value
		}
	}
	return err
}

func (h *host) compareAndWrite(block int64) error {
	o := history.Op{Client: h.client, Kind: history.CompareAndWrite, Block: block, Expected: h.last[block], Value: h.rec.NextValue(), Call: h.rec.Now()}
	fill(h.buf[:blockBytes], block, o.Expected)
	fill(h.buf[blockBytes:], block, o.Value)
	err := blockdev.Do(h.dev, &blockdev.Request{Op: blockdev.OpCompareAndWrite, Offset: offset(block), Length: blockBytes, Data: [][]byte{h.buf}})
	o.Missed, o.Refused = errors.Is(err, blockdev.ErrMiscompare), errors.Is(err, blockdev.ErrNoSpace)
	switch {
	case o.Missed:
		err = nil
	case err != nil && !o.Refused:
		// The target may not know either: nobody may send it again in its place.
		err = fmt.Errorf("%w: %w", multipath.ErrUnknown, err)
		o.Open = true
	}
	h.rec.Add(o)
	if !o.Missed && !o.Refused {
		h.last[block] = o.Value
	}
	return err
}

// load is hosts at work.
type load struct {
	t       *Trial
	cancel  context.CancelFunc
	running sync.WaitGroup
	devices []*multipath.Device // of hosts, which work by them together
	watched []*multipath.Device // of watchers
	first   int64               // block of the window
	also    atomic.Int64        // first block of another window, of which blocks are read too; -1: of none
	acked   *progress.Clients   // hosts

	mu      sync.Mutex
	slowest time.Duration
	from    time.Time // when the slowest began
	errors  []string
	refused int // for want of space
}

// startLoad connects all hosts and has them work on the next window.
func (t *Trial) startLoad(ctx context.Context) (*load, error) {
	l := &load{t: t, first: int64(t.round % windows * windowBlocks), acked: progress.Of(hosts)}
	l.also.Store(-1)
	t.use(l.first)
	run, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	for id, speaks := range []protocol{overNVMe, overISCSI} {
		dev, err := t.connectTo(ctx, speaks, byte(id), silence, multipath.Config{Patience: hostPatience}, t.names()...)
		if err != nil {
			return nil, errors.Join(err, l.stop())
		}
		l.devices = append(l.devices, dev)
	}
	for i := range hosts {
		dev := l.devices[0]
		if i < iscsiHosts {
			dev = l.devices[1]
		}
		l.running.Go(func() { l.work(run, i, t.newHost(i, dev)) })
	}
	for i, n := range t.nodes {
		// A watcher's read is not sent again: what it brings must have been so
		// after it was sent.
		dev, err := t.connectTo(ctx, overNVMe, byte(len(l.devices)+i), watcherQuiet, multipath.Config{Patience: time.Nanosecond}, n.Name)
		if err != nil {
			return nil, errors.Join(err, l.stop())
		}
		l.watched = append(l.watched, dev)
		l.running.Go(func() { l.watch(run, t.newHost(hosts+i, dev)) })
	}
	return l, nil
}

// use notes that the blocks of a window are written.
func (t *Trial) use(first int64) {
	for i := range int64(windowBlocks) {
		t.blocks[first+i] = true
	}
}

// work has a host work until ctx ends.
func (l *load) work(ctx context.Context, i int, h *host) {
	for ctx.Err() == nil {
		began, err := l.one(h, l.first+h.rng.Int64N(windowBlocks))
		l.note(i, began, err)
		pass(ctx, thinkTime)
	}
}

// runBlocks is how many blocks, each in a region of its own, an unmap of several is of at most.
const runBlocks = 4

// one does something with a block, and maybe with others beside it.
func (l *load) one(h *host, block int64) (began time.Time, err error) {
	began = time.Now()
	two, count := neighbours(block)
	switch n := h.rng.IntN(100); {
	case n < 30:
		if also := l.also.Load(); also >= 0 && n < 15 {
			block = also + h.rng.Int64N(windowBlocks)
		}
		err = h.read(block)
	case n < 38:
		err = h.readRun(two, count)
	case n < 65:
		err = h.write(block)
	case n < 77:
		err = h.writeRun(two, count)
	case n < 81:
		err = h.clear(blockdev.OpUnmap, block, 1)
	case n < 84:
		err = h.clear(blockdev.OpWriteZeroes, two, count)
	case n < 85:
		err = h.clear(blockdev.OpUnmap, block, int(min(runBlocks, l.first+windowBlocks-block)))
	default:
		if _, known := h.last[block]; !known {
			err = h.read(block)
		}
		if err == nil {
			began = time.Now()
			err = h.compareAndWrite(block)
		}
	}
	return began, err
}

// note keeps account of an operation that ended.
func (l *load) note(i int, began time.Time, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		if took := time.Since(began); took > l.slowest {
			l.slowest, l.from = took, began
		}
		l.acked.Note(i, began)
	case errors.Is(err, blockdev.ErrNoSpace):
		l.refused++
	case !errors.Is(err, multipath.ErrUnknown):
		l.errors = append(l.errors, err.Error())
	}
}

// refusals is how many operations there was no space for.
func (l *load) refusals() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused
}

// progress waits until every host has had a success with something that it
// began from now on.
func (l *load) progress(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, hostPatience)
	defer cancel()
	if late := l.acked.Await(ctx); late > 0 {
		return fmt.Errorf("%d of %d hosts had no success for %v", late, hosts, hostPatience)
	}
	return nil
}

// watch has a watcher read until ctx ends. It is told errors while its node
// does not serve, and the others don't need it.
func (l *load) watch(ctx context.Context, h *host) {
	for ctx.Err() == nil {
		err := h.read(l.first + h.rng.Int64N(windowBlocks))
		if errors.Is(err, errTorn) {
			l.mu.Lock()
			l.errors = append(l.errors, err.Error())
			l.mu.Unlock()
		}
		pass(ctx, thinkTime)
	}
}

// stop ends the load. What hosts still wait for is answered first; watchers'
// reads are not waited for.
func (l *load) stop() error {
	l.cancel()
	var errs []error
	for _, dev := range l.watched {
		errs = append(errs, dev.Close())
	}
	l.running.Wait()
	for _, dev := range l.devices {
		errs = append(errs, dev.Close())
	}
	return errors.Join(errs...)
}
