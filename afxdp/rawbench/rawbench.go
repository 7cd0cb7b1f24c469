// Package rawbench measures what AF_XDP itself does on a wire: one frame to and
// fro, and as many as go one way. There are no headers to make or check, no
// neighbours, no transport: what a Link or the node wire achieves is judged
// against these figures, taken in the same run.
//
// Both ends belong to one process. PingPong and Pump run each end on a
// goroutine of its own and return when both have ended; nothing else has
// goroutines.
package rawbench

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"blockd.dev/afxdp/nic"
	"blockd.dev/afxdp/packet"
	"blockd.dev/afxdp/queue"
	"blockd.dev/afxdp/socket"
	"blockd.dev/afxdp/umem"
	"blockd.dev/blockdev/arena"
	"blockd.dev/bpf"
)

// Config says where an End is.
type Config struct {
	Interface string     // name, in the namespace of the calling thread
	Local     netip.Addr // an address of it, for the program to match
	Peer      netip.Addr // of the other End
	Port      uint16
	Generic   bool // generic mode, else native, zero-copy if the driver has it
	BusyPoll  socket.BusyPoll
}

// End is one end of the wire: a program and a socket on queue 0.
type End struct {
	MAC      packet.MAC // of the interface, for the other End
	ZeroCopy bool
	// FrameMax is the longest frame in bytes, from the Ethernet header on.
	FrameMax int

	config  Config
	arena   *arena.Arena
	umem    *umem.UMEM
	share   *umem.Share
	steer   *bpf.Steer
	socket  *socket.Socket
	queue   *queue.Queue
	frame   []byte   // what is sent
	edition uint32   // counts prepare
	holds   []uint32 // by slot: which edition of frame is in it
	poll    [1]unix.PollFd
}

const (
	rxSlots  = 2048
	txSlots  = 512
	chunk    = umem.ChunkBytes
	headroom = 256 // XDP_PACKET_HEADROOM
)

// Open puts a program on the interface and a socket behind it. On an error
// nothing stays.
func Open(c Config) (_ *End, err error) {
	e := &End{config: c}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("rawbench: %w", err), e.Close())
		}
	}()
	info, err := nic.Look(c.Interface)
	if err != nil {
		return nil, err
	}
	if info.Tags != [packet.TagsMax]packet.Tag{} {
		return nil, fmt.Errorf("interface %s is a VLAN; measure on %s", c.Interface, info.Device)
	}
	const ethernetLen = 14
	e.MAC, e.FrameMax = info.MAC, min(info.MTU+ethernetLen, 4*chunk-headroom)
	layout := queue.Layout{RxSlots: rxSlots, TxSlots: txSlots, Stride: (headroom + e.FrameMax + chunk - 1) / chunk}
	if e.arena, err = arena.New(arena.Config{SizeBytes: int64(layout.Chunks()) * chunk}); err != nil {
		return nil, err
	}
	if e.umem, err = umem.New(e.arena, layout.Chunks()); err != nil {
		return nil, err
	}
	if e.share, err = e.umem.Cut(layout.Chunks()); err != nil {
		return nil, err
	}
	mode := bpf.Native
	if c.Generic {
		mode = bpf.Generic
	}
	if e.steer, err = bpf.LoadSteer(bpf.Config{Interface: info.DeviceIndex, Port: c.Port, Local: []netip.Addr{c.Local}, Mode: mode}); err != nil {
		return nil, err
	}
	if err := e.steer.AllowPeer(c.Peer); err != nil {
		return nil, err
	}
	sc := socket.Config{
		Interface: info.DeviceIndex, UMEM: e.umem, CopyOnly: c.Generic, MultiBuffer: layout.Stride > 1, BusyPoll: c.BusyPoll,
		SendBufferBytes: txSlots * (layout.SlotBytes() + chunk),
	}
	sc.FillEntries, sc.CompletionEntries, sc.RXEntries, sc.TXEntries = layout.Entries()
	if e.socket, err = socket.Open(sc); err != nil {
		return nil, err
	}
	e.ZeroCopy = e.socket.ZeroCopy()
	if !e.socket.MultiBuffer() {
		e.FrameMax = min(e.FrameMax, chunk-headroom)
	}
	if e.queue, err = queue.New(e.socket.Rings, e.share.Bytes(), e.share.Base(), layout); err != nil {
		return nil, err
	}
	e.holds = make([]uint32, rxSlots+txSlots)
	e.poll[0] = unix.PollFd{Fd: int32(e.socket.FD()), Events: unix.POLLIN}
	return e, e.steer.Register(0, e.socket.FD())
}

// Close takes everything down.
func (e *End) Close() error {
	var errs []error
	if e.socket != nil {
		errs = append(errs, e.socket.Close())
	}
	if e.steer != nil {
		errs = append(errs, e.steer.Close())
	}
	if e.share != nil {
		e.share.Release()
	}
	if e.umem != nil {
		errs = append(errs, e.umem.Close())
	}
	if e.arena != nil {
		errs = append(errs, e.arena.Close())
	}
	return errors.Join(errs...)
}

// prepare makes the frame that is sent to the peer, over and over.
func (e *End) prepare(peer *End, frameBytes int) error {
	h := packet.Header{
		Source: e.MAC, Destination: peer.MAC,
		From: netip.AddrPortFrom(e.config.Local, e.config.Port), To: netip.AddrPortFrom(peer.config.Local, e.config.Port),
	}
	n := packet.HeaderLen(e.config.Local.Is4(), &h.Tags)
	if frameBytes <= n || frameBytes > min(e.FrameMax, peer.FrameMax) {
		return fmt.Errorf("rawbench: a frame of %d bytes; want %d to %d", frameBytes, n+1, min(e.FrameMax, peer.FrameMax))
	}
	e.frame = make([]byte, frameBytes)
	e.edition++
	h.Put(e.frame[:n], e.frame[n:])
	return nil
}

// push puts the frame into the TX ring; false when there is no room. Slots
// keep what was sent before, so the frame is copied once into each.
func (e *End) push() bool {
	slot, ok := e.queue.Take()
	if !ok {
		return false
	}
	if e.holds[slot] != e.edition {
		copy(e.queue.Room(slot), e.frame)
		e.holds[slot] = e.edition
	}
	e.queue.Send(slot, 0, len(e.frame))
	return true
}

// flush wakes the kernel until it has sent all, or can't now. In copy mode each
// call sends 32 frames or more.
func (e *End) flush() error {
	if !e.queue.Publish() {
		return nil
	}
	for range e.queue.Unsent()/32 + 2 {
		switch errno := e.socket.WakeTX(); errno {
		case 0:
			return nil
		case unix.EAGAIN, unix.EBUSY, unix.ENOBUFS, unix.EINTR:
		default:
			return fmt.Errorf("rawbench: send: %w", errno)
		}
	}
	return nil
}

// drain recycles what has arrived and returns how many frames that were.
func (e *End) drain(most int) (int, error) {
	n := 0
	for n < most {
		f, ok := e.queue.Next()
		if !ok {
			break
		}
		e.queue.Recycle(f.Slot)
		n++
	}
	if n > 0 && e.queue.Flush() {
		if errno := e.socket.WakeRX(); errno != 0 && errno != unix.EAGAIN {
			return n, fmt.Errorf("rawbench: receive: %w", errno)
		}
	}
	return n, nil
}

// Wait says how an End waits for a frame.
type Wait uint8

// The ways to wait.
const (
	Spin  Wait = iota // look at the ring until it is there
	Sleep             // poll(2)
)

// pause waits a bit.
func (e *End) pause(w Wait) error {
	if w == Sleep {
		if _, err := unix.Poll(e.poll[:], 10); err != nil && err != unix.EINTR {
			return fmt.Errorf("rawbench: poll: %w", err)
		}
	}
	return nil
}

// Latency is what PingPong measured.
type Latency struct {
	Trips         int64
	P50, P90, P99 time.Duration // there and back
	Lost          int64         // frames that did not come back within 100 ms
}

// PingPong sends one frame of frameBytes to and fro between the ends for d, and
// times each trip. It takes longer when not even one was made by then.
func PingPong(a, b *End, frameBytes int, w Wait, d time.Duration) (Latency, error) {
	if err := errors.Join(a.prepare(b, frameBytes), b.prepare(a, frameBytes)); err != nil {
		return Latency{}, err
	}
	var stop atomic.Bool
	echoed := make(chan error, 1)
	go func() { echoed <- b.echo(w, &stop) }()
	l, err := a.ping(w, d)
	stop.Store(true)
	return l, errors.Join(err, <-echoed)
}

// echo answers each frame by one.
func (e *End) echo(w Wait, stop *atomic.Bool) error {
	for !stop.Load() {
		n, err := e.drain(16)
		if err != nil {
			return err
		}
		for range n {
			e.push()
		}
		if n == 0 {
			err = e.pause(w)
		} else {
			err = e.flush()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ping sends a frame and waits for its answer, again and again, for d; on a
// machine so busy that not one came back by then, until one has, or 10 s.
func (e *End) ping(w Wait, d time.Duration) (Latency, error) {
	const patience, firstPatience = 100 * time.Millisecond, 10 * time.Second
	trips := hdrhistogram.New(1, int64(time.Minute), 3)
	var l Latency
	now := time.Now()
	end, last := now.Add(d), now.Add(max(d, firstPatience))
	for now.Before(end) || trips.TotalCount() == 0 && now.Before(last) {
		start := now
		if !e.push() {
			return l, errors.New("rawbench: no send buffer comes back")
		}
		if err := e.flush(); err != nil {
			return l, err
		}
		for {
			n, err := e.drain(16)
			if now = time.Now(); err != nil || n > 0 || now.Sub(start) > patience {
				if err != nil {
					return l, err
				}
				if n == 0 {
					l.Lost++
				} else if err := trips.RecordValue(int64(now.Sub(start))); err != nil {
					return l, fmt.Errorf("rawbench: %w", err)
				}
				break
			}
			if err := e.pause(w); err != nil {
				return l, err
			}
		}
	}
	l.Trips = trips.TotalCount()
	l.P50, l.P90, l.P99 = time.Duration(trips.ValueAtQuantile(50)), time.Duration(trips.ValueAtQuantile(90)), time.Duration(trips.ValueAtQuantile(99))
	return l, nil
}

// Rate is what Pump measured.
type Rate struct {
	Sent, Received int64 // frames
	FrameBytes     int
	Elapsed        time.Duration
}

// PacketsPerSecond is the rate of what was received.
func (r Rate) PacketsPerSecond() float64 { return float64(r.Received) / r.Elapsed.Seconds() }

// BitsPerSecond is the rate of the received frames' bits, from the Ethernet
// header on.
func (r Rate) BitsPerSecond() float64 { return r.PacketsPerSecond() * float64(r.FrameBytes) * 8 }

// Pump sends frames of frameBytes from a to b as fast as goes for d. Those that
// b has no room for are lost, and show as the difference.
func Pump(a, b *End, frameBytes int, d time.Duration) (Rate, error) {
	if err := a.prepare(b, frameBytes); err != nil {
		return Rate{}, err
	}
	r := Rate{FrameBytes: frameBytes}
	start := time.Now()
	end := start.Add(d)
	received := make(chan error, 1)
	go func() {
		for time.Now().Before(end) {
			n, err := b.drain(64)
			if err == nil && n == 0 {
				err = b.pause(Sleep)
			}
			if err != nil {
				received <- err
				return
			}
			r.Received += int64(n)
		}
		n, err := b.drain(1 << 20) // what has arrived by now
		r.Received += int64(n)
		received <- err
	}()
	sent, err := a.pump(end)
	err = errors.Join(err, <-received)
	r.Sent, r.Elapsed = sent, time.Since(start)
	return r, err
}

// pump fills the TX ring, 64 at a time.
func (e *End) pump(end time.Time) (sent int64, err error) {
	for time.Now().Before(end) {
		n := 0
		for n < 64 && e.push() {
			n++
		}
		sent += int64(n)
		if err := e.flush(); err != nil {
			return sent, err
		}
		if n == 0 {
			// All buffers are with the device: let it, and who shares the core, work.
			if err := e.pauseForRoom(); err != nil {
				return sent, err
			}
		}
	}
	return sent, nil
}

func (e *End) pauseForRoom() error {
	if _, err := unix.Ppoll(nil, &unix.Timespec{Nsec: int64(20 * time.Microsecond)}, nil); err != nil && err != unix.EINTR {
		return fmt.Errorf("rawbench: pause: %w", err)
	}
	return nil
}
