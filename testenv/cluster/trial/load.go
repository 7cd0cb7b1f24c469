package trial

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/testenv/progress"
	"blockd.dev/tools/blockbench/history"
	"blockd.dev/tools/blockbench/multipath"
)

const (
	blockBytes  = 4096
	blockStride = 64 << 10 // a chunk of the store: each block needs room of its own

	// windows of the volume take turns, so that a fault finds room that was never
	// written and blocks that were.
	windows      = 16
	windowBlocks = 256

	hosts        = 6
	iscsiHosts   = 2 // of these
	watchers     = 3 // one for each node
	readersMax   = 8
	readerClient = 100

	// thinkTime lies between two operations of a host: the load shares its processors
	// with the cluster.
	thinkTime = 4 * time.Millisecond
)

// offset of a block on the volume. It is not always at the begin of its chunk.
func offset(block int64) int64 { return block*blockStride + block%(blockStride/blockBytes)*blockBytes }

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

// host does one operation at a time and records it.
type host struct {
	rec    *history.Recorder
	client int
	dev    blockdev.Device
	rng    *rand.Rand
	buf    []byte
	last   map[int64]uint64 // what it saw or wrote last, to compare with
	again  *resent
}

// resent are the writes that were sent again.
type resent struct {
	mu sync.Mutex
	by map[*blockdev.Request]bool
}

// note is multipath.Config.Again.
func (s *resent) note(r *blockdev.Request, _ error) {
	if r.Op != blockdev.OpWrite {
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

func (h *host) read(block int64) error {
	o := history.Op{Client: h.client, Kind: history.Read, Block: block, Call: h.rec.Now()}
	b := h.buf[:blockBytes]
	err := blockdev.ReadAt(h.dev, b, offset(block))
	if err == nil {
		o.Value, err = valueOf(b, block)
	}
	o.Open = err != nil
	h.rec.Add(o)
	h.last[block] = o.Value
	return err
}

func (h *host) write(block int64) error {
	o := history.Op{Client: h.client, Kind: history.Write, Block: block, Value: h.rec.NextValue(), Call: h.rec.Now()}
	b := h.buf[:blockBytes]
	fill(b, block, o.Value)
	r := &blockdev.Request{Op: blockdev.OpWrite, Offset: offset(block), Length: blockBytes, Data: [][]byte{b}}
	err := blockdev.Do(h.dev, r)
	o.Open, o.Again = err != nil, h.again.took(r)
	h.rec.Add(o)
	h.last[block] = o.Value
	return err
}

func (h *host) compareAndWrite(block int64) error {
	o := history.Op{Client: h.client, Kind: history.CompareAndWrite, Block: block, Expected: h.last[block], Value: h.rec.NextValue(), Call: h.rec.Now()}
	fill(h.buf[:blockBytes], block, o.Expected)
	fill(h.buf[blockBytes:], block, o.Value)
	err := blockdev.Do(h.dev, &blockdev.Request{Op: blockdev.OpCompareAndWrite, Offset: offset(block), Length: blockBytes, Data: [][]byte{h.buf}})
	if o.Missed = errors.Is(err, blockdev.ErrMiscompare); o.Missed {
		err = nil
	}
	if err != nil {
		// The target may not know either: nobody may send it again in its place.
		err = fmt.Errorf("%w: %w", multipath.ErrUnknown, err)
	}
	o.Open = err != nil
	h.rec.Add(o)
	if !o.Missed {
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
	acked   *progress.Clients   // hosts

	mu      sync.Mutex
	slowest time.Duration
	from    time.Time // when the slowest began
	errors  []string
}

// startLoad connects all hosts and has them work on the next window.
func (t *Trial) startLoad(ctx context.Context) (*load, error) {
	l := &load{t: t, first: int64(t.round % windows * windowBlocks), acked: progress.Of(hosts)}
	for i := range int64(windowBlocks) {
		t.blocks[l.first+i] = true
	}
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

// work has a host work until ctx ends.
func (l *load) work(ctx context.Context, i int, h *host) {
	for ctx.Err() == nil {
		block := l.first + h.rng.Int64N(windowBlocks)
		began := time.Now()
		var err error
		switch n := h.rng.IntN(100); {
		case n < 40:
			err = h.read(block)
		case n < 85:
			err = h.write(block)
		default:
			if _, known := h.last[block]; !known {
				err = h.read(block)
			}
			if err == nil {
				began = time.Now()
				err = h.compareAndWrite(block)
			}
		}
		l.note(i, began, err)
		pass(ctx, thinkTime)
	}
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
	case !errors.Is(err, multipath.ErrUnknown):
		l.errors = append(l.errors, err.Error())
	}
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
