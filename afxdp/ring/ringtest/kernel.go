// Package ringtest is the kernel's side of an AF_XDP socket on the heap, for
// tests: fill, completion, RX and TX rings and a UMEM, with net/xdp's copy
// mode behind them, multi-buffer frames included. It checks what the kernel
// would only count (descriptors that leave their chunk) and what it can't
// know (a chunk that is given to it twice).
//
// A Kernel has no goroutine: it does something when it is called, which may be
// from another goroutine than the one that uses the rings. It is written
// without package ring's arithmetic on purpose, so that one checks the other.
package ringtest

import (
	"fmt"
	"sync/atomic"

	"blockd.dev/afxdp/ring"
)

// Ring is one ring as the kernel sees it. Its side of the indexes is held in
// 64 bits that never wrap.
type Ring[T any] struct {
	memory ring.Memory[T]
	words  [3]uint32
	pos    uint64 // entries produced or consumed by the kernel, from start
}

func newRing[T any](entries int, start uint32) *Ring[T] {
	r := &Ring[T]{pos: uint64(start)}
	r.words[0], r.words[1] = start, start
	r.memory = ring.Memory[T]{ProducerIndex: &r.words[0], ConsumerIndex: &r.words[1], Flags: &r.words[2], Entries: make([]T, entries)}
	return r
}

// Memory is what the user's side works on.
func (r *Ring[T]) Memory() ring.Memory[T] { return r.memory }

// SetNeedWakeup sets or clears the flag.
func (r *Ring[T]) SetNeedWakeup(on bool) {
	v := uint32(0)
	if on {
		v = 1
	}
	atomic.StoreUint32(&r.words[2], v)
}

// waiting is how many entries the user has produced for us.
func (r *Ring[T]) waiting() int {
	n := atomic.LoadUint32(&r.words[0]) - uint32(r.pos)
	if n > uint32(len(r.memory.Entries)) {
		panic(fmt.Sprintf("ringtest: the producer index is %d ahead in a ring of %d", int32(n), len(r.memory.Entries)))
	}
	return int(n)
}

// room is how many entries we may produce.
func (r *Ring[T]) room() int {
	n := uint32(r.pos) - atomic.LoadUint32(&r.words[1])
	if n > uint32(len(r.memory.Entries)) {
		panic(fmt.Sprintf("ringtest: the consumer index is %d behind in a ring of %d", int32(n), len(r.memory.Entries)))
	}
	return len(r.memory.Entries) - int(n)
}

func (r *Ring[T]) peek(ahead int) T {
	return r.memory.Entries[(r.pos+uint64(ahead))%uint64(len(r.memory.Entries))]
}

func (r *Ring[T]) consume(n int) {
	r.pos += uint64(n)
	atomic.StoreUint32(&r.words[1], uint32(r.pos))
}

// produce makes all entries visible at once.
func (r *Ring[T]) produce(entries ...T) {
	for i, e := range entries {
		r.memory.Entries[(r.pos+uint64(i))%uint64(len(r.memory.Entries))] = e
	}
	r.pos += uint64(len(entries))
	atomic.StoreUint32(&r.words[0], uint32(r.pos))
}

// Config is the size of things.
type Config struct {
	Chunks                     int // of ChunkBytes each
	Fill, Completion, RX, TX   int // entries
	FirstIndex                 uint32
	HeadroomBytes, SegmentsMax int // 256 and 17 when 0
	ReceiveBytes               int // room of a received segment; 0 is the chunk less the headroom
}

// ChunkBytes is the size of a chunk.
const ChunkBytes = 4096

// Kernel is the simulated socket.
type Kernel struct {
	Fill, Completion *Ring[uint64]
	RX, TX           *Ring[ring.Desc]
	UMEM             []byte

	cfg       Config
	has       []bool   // chunks that are the kernel's
	sent      []uint64 // transmitted, not completed
	Delivered int      // frames in the RX ring since the start
	Dropped   int      // frames without buffer or room
}

// New makes an idle socket, with no chunk in any ring.
func New(cfg Config) *Kernel {
	if cfg.HeadroomBytes == 0 {
		cfg.HeadroomBytes = 256
	}
	if cfg.SegmentsMax == 0 {
		cfg.SegmentsMax = 17
	}
	if cfg.ReceiveBytes == 0 {
		cfg.ReceiveBytes = ChunkBytes - cfg.HeadroomBytes
	}
	return &Kernel{
		Fill: newRing[uint64](cfg.Fill, cfg.FirstIndex), Completion: newRing[uint64](cfg.Completion, cfg.FirstIndex),
		RX: newRing[ring.Desc](cfg.RX, cfg.FirstIndex), TX: newRing[ring.Desc](cfg.TX, cfg.FirstIndex),
		UMEM: make([]byte, cfg.Chunks*ChunkBytes), cfg: cfg, has: make([]bool, cfg.Chunks),
	}
}

// take makes the chunk of addr the kernel's.
func (k *Kernel) take(addr uint64, from string) {
	c := addr / ChunkBytes
	if c >= uint64(len(k.has)) {
		panic(fmt.Sprintf("ringtest: address %#x from the %s ring is outside of the UMEM", addr, from))
	}
	if k.has[c] {
		panic(fmt.Sprintf("ringtest: chunk %d came through the %s ring, but the kernel has it already", c, from))
	}
	k.has[c] = true
}

func (k *Kernel) give(addr uint64) { k.has[addr/ChunkBytes] = false }

// Holds is how many chunks the kernel has taken and not given back.
func (k *Kernel) Holds() int {
	n := 0
	for _, h := range k.has {
		if h {
			n++
		}
	}
	return n
}

// Receive is a frame that arrives: it goes into as many chunks of the fill
// ring as it needs. It is dropped and counted where these or the RX ring do
// not suffice.
func (k *Kernel) Receive(frame []byte) bool {
	segments := (len(frame) + k.cfg.ReceiveBytes - 1) / k.cfg.ReceiveBytes
	if segments > k.Fill.waiting() || segments > k.RX.room() || segments > k.cfg.SegmentsMax {
		k.Dropped++
		return false
	}
	descs := make([]ring.Desc, segments)
	for i := range descs {
		// The kernel takes the chunk's number from the address and ignores
		// where in the chunk it points.
		chunk := k.Fill.peek(i) / ChunkBytes * ChunkBytes
		k.take(chunk, "fill")
		part := frame[:min(len(frame), k.cfg.ReceiveBytes)]
		frame = frame[len(part):]
		addr := chunk + uint64(k.cfg.HeadroomBytes)
		copy(k.UMEM[addr:], part)
		descs[i] = ring.Desc{Addr: addr, Len: uint32(len(part))}
		if len(frame) > 0 {
			descs[i].Options = ring.Continued
		}
	}
	for i := range descs {
		k.give(descs[i].Addr)
	}
	k.Fill.consume(segments)
	k.RX.produce(descs...)
	k.Delivered++
	return true
}

// ReceiveDescs puts descriptors of the caller's making into the RX ring, for
// what drivers do that copy mode does not. It takes as many chunks from the
// fill ring, whose addresses fillIn gets.
func (k *Kernel) ReceiveDescs(n int, fillIn func(i int, chunk uint64) ring.Desc) {
	descs := make([]ring.Desc, n)
	for i := range descs {
		descs[i] = fillIn(i, k.Fill.peek(i))
	}
	k.Fill.consume(n)
	k.RX.produce(descs...)
}

// Waiting is the number of chunks in the fill ring.
func (k *Kernel) Waiting() int { return k.Fill.waiting() }

// Transmit takes one frame from the TX ring and returns a copy of it, or nil
// when there is none. Its chunks are the kernel's until Complete.
func (k *Kernel) Transmit() []byte {
	var frame []byte
	n := k.TX.waiting()
	for i := range n {
		d := k.TX.peek(i)
		if d.Len == 0 || d.Addr/ChunkBytes != (d.Addr+uint64(d.Len)-1)/ChunkBytes || d.Options&^ring.Continued != 0 {
			panic(fmt.Sprintf("ringtest: the kernel would refuse to send %+v", d))
		}
		k.take(d.Addr, "TX")
		frame = append(frame, k.UMEM[d.Addr:d.Addr+uint64(d.Len)]...)
		k.sent = append(k.sent, d.Addr)
		if d.Options&ring.Continued == 0 {
			k.TX.consume(i + 1)
			return frame
		}
	}
	if n > 0 {
		panic("ringtest: the TX ring ends in the middle of a frame")
	}
	return nil
}

// Complete gives back up to n chunks that were transmitted, oldest first, or
// newest first when reversed, and returns how many.
func (k *Kernel) Complete(n int, reversed bool) int {
	n = min(n, len(k.sent), k.Completion.room())
	for range n {
		var addr uint64
		if last := len(k.sent) - 1; reversed {
			addr, k.sent = k.sent[last], k.sent[:last]
		} else {
			addr, k.sent = k.sent[0], k.sent[1:]
		}
		k.give(addr)
		k.Completion.produce(addr)
	}
	return n
}
