package fault

import (
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// doneMark is on what may pass unharmed; the same number is in fault.c.
const doneMark = 0x626c6b64

// lateHeadLen is the size of struct late in fault.c.
const lateHeadLen = 16

// lateFrames holds the frames that must be late until they are due.
type lateFrames struct {
	reader *ringbuf.Reader
	socket int // AF_PACKET, on the interface
	ended  sync.WaitGroup
	stop   chan struct{}
	wake   chan struct{} // the first frame has changed; holds one

	mu     sync.Mutex
	frames dueHeap
	count  uint64
}

// openLate starts taking frames from ring, to be sent on the interface.
func openLate(ring *ebpf.Map, index int) (*lateFrames, error) {
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0) // receives nothing
	if err != nil {
		return nil, fmt.Errorf("fault: packet socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_MARK, doneMark),
		unix.Bind(socket, &unix.SockaddrLinklayer{Ifindex: index}),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fault: packet socket on interface %d: %w", index, err), unix.Close(socket))
	}
	reader, err := ringbuf.NewReader(ring)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fault: ring buffer: %w", err), unix.Close(socket))
	}
	l := &lateFrames{reader: reader, socket: socket, stop: make(chan struct{}), wake: make(chan struct{}, 1)}
	l.ended.Go(l.take)
	l.ended.Go(l.send)
	return l, nil
}

func (l *lateFrames) close() error {
	close(l.stop)
	err := l.reader.Close()
	l.ended.Wait()
	return errors.Join(err, unix.Close(l.socket))
}

// take moves frames from the ring to the heap.
func (l *lateFrames) take() {
	var r ringbuf.Record
	for {
		if err := l.reader.ReadInto(&r); err != nil {
			return // closed
		}
		f, ok := decodeLate(r.RawSample)
		if !ok {
			continue // the kernel couldn't copy it: lost
		}
		l.mu.Lock()
		f.nth = l.count
		l.count++
		heap.Push(&l.frames, f)
		l.mu.Unlock()
		select {
		case l.wake <- struct{}{}:
		default:
		}
	}
}

// send sends each frame when it is due.
func (l *lateFrames) send() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		f, wait := l.next()
		if f.frame != nil {
			// A full device queue loses it, as it would have lost it before.
			_ = unix.Send(l.socket, f.frame, 0)
			continue
		}
		timer.Reset(wait)
		select {
		case <-l.stop:
			return
		case <-l.wake:
		case <-timer.C:
		}
	}
}

// next takes a frame that is due, or tells how long to wait.
func (l *lateFrames) next() (lateFrame, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.frames) == 0 {
		return lateFrame{}, time.Hour
	}
	if wait := l.frames[0].dueNs - monotonicNs(); wait > 0 {
		return lateFrame{}, time.Duration(wait)
	}
	return heap.Pop(&l.frames).(lateFrame), 0
}

// monotonicNs is the clock that the program reads too.
func monotonicNs() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic("fault: CLOCK_MONOTONIC can't be read: " + err.Error()) // every kernel has it
	}
	return t.Nano()
}

// lateFrame is a frame and when to send it.
type lateFrame struct {
	dueNs int64
	nth   uint64 // keeps the order of those due at the same time
	frame []byte
}

// decodeLate copies a frame out of a record of the ring: struct late, then the
// frame. A VLAN tag that the kernel keeps beside the frame goes into it.
func decodeLate(record []byte) (lateFrame, bool) {
	if len(record) < lateHeadLen {
		return lateFrame{}, false
	}
	ne := binary.NativeEndian
	length := int(ne.Uint32(record[8:]))
	body := record[lateHeadLen:]
	if length < 14 || length > len(body) {
		return lateFrame{}, false
	}
	body = body[:length]
	frame := make([]byte, 0, length+4)
	frame = append(frame, body[:12]...)
	if kind := ne.Uint16(record[14:]); kind != 0 {
		frame = binary.BigEndian.AppendUint16(frame, kind)
		frame = binary.BigEndian.AppendUint16(frame, ne.Uint16(record[12:]))
	}
	frame = append(frame, body[12:]...)
	finishChecksum(frame)
	return lateFrame{dueNs: int64(ne.Uint64(record)), frame: frame}, true
}

// dueHeap is a heap by time.
type dueHeap []lateFrame

// Len is of heap.Interface, as all of these.
func (h dueHeap) Len() int { return len(h) }

func (h dueHeap) Less(i, j int) bool {
	if h[i].dueNs != h[j].dueNs {
		return h[i].dueNs < h[j].dueNs
	}
	return h[i].nth < h[j].nth
}

func (h dueHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push is of heap.Interface.
func (h *dueHeap) Push(x any) { *h = append(*h, x.(lateFrame)) }

// Pop is of heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	f := (*h)[last]
	(*h)[last] = lateFrame{}
	*h = (*h)[:last]
	return f
}
