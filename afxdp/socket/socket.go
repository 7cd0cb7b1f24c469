package socket

import (
	"errors"
	"fmt"
	"math/bits"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"blockd.dev/afxdp/ring"
	"blockd.dev/afxdp/umem"
)

// BusyPoll asks the kernel to run a queue's driver when the socket is polled
// rather than by interrupt (Linux 5.11). The zero value leaves it off. It needs
// the NIC's napi_defer_hard_irqs and gro_flush_timeout set (docs/NETWORK.md).
type BusyPoll struct {
	Duration time.Duration // how long one poll may spin, in whole microseconds up to 1 s
	Budget   int           // packets per poll, 1 to 65535; 0 is the kernel's default of 8
}

// Config says what Open makes.
type Config struct {
	Interface int        // index of the NIC, in the namespace of the calling thread
	Queue     int        // number of the receive and transmit queue
	UMEM      *umem.UMEM // shared with what else is bound to it
	// Ring sizes in entries, powers of two.
	FillEntries, CompletionEntries, RXEntries, TXEntries uint32
	// CopyOnly leaves out zero-copy: the program is in generic mode, which has none.
	CopyOnly bool
	// ZeroCopyOnly leaves out copy mode.
	ZeroCopyOnly bool
	// MultiBuffer tries for frames over several chunks.
	MultiBuffer bool
	BusyPoll    BusyPoll
	// SendBufferBytes is how much copy mode may have in flight, skb overhead
	// included; 0 is the kernel's default, some 50 frames of 4 KiB.
	SendBufferBytes int
}

func (c *Config) validate() error {
	if c.Interface <= 0 || c.Queue < 0 || c.UMEM == nil || c.CopyOnly && c.ZeroCopyOnly {
		return fmt.Errorf("af_xdp: interface %d, queue %d, copy only %v, zero-copy only %v: no such configuration", c.Interface, c.Queue, c.CopyOnly, c.ZeroCopyOnly)
	}
	for _, n := range []uint32{c.FillEntries, c.CompletionEntries, c.RXEntries, c.TXEntries} {
		if bits.OnesCount32(n) != 1 {
			return fmt.Errorf("af_xdp: a ring of %d entries; want a power of two", n)
		}
	}
	if c.BusyPoll.Duration < 0 || c.BusyPoll.Duration > time.Second || c.BusyPoll.Budget < 0 || c.BusyPoll.Budget > 65535 {
		return fmt.Errorf("af_xdp: busy poll for %v with a budget of %d; want up to 1s and up to 65535", c.BusyPoll.Duration, c.BusyPoll.Budget)
	}
	return nil
}

// Socket is a bound AF_XDP socket. Rings belongs to one goroutine, and so do
// WakeTX and WakeRX; the rest may be called from any, until Close.
type Socket struct {
	Rings ring.Set

	calls    calls
	fd       int
	umem     *umem.UMEM
	maps     [][]byte
	zeroCopy bool
	multi    bool
	refused  []error
}

// rung is one way to bind.
type rung struct {
	flags    uint16
	zeroCopy bool
	multi    bool
}

func (r rung) String() string {
	s := "copy mode"
	if r.zeroCopy {
		s = "zero-copy"
	}
	if r.multi {
		s += " with multi-buffer"
	}
	return s
}

// ladder lists the ways to try, best first.
func (c *Config) ladder() []rung {
	var rungs []rung
	for _, multi := range []bool{true, false} {
		for _, zeroCopy := range []bool{true, false} {
			if multi && !c.MultiBuffer || zeroCopy && c.CopyOnly || !zeroCopy && c.ZeroCopyOnly {
				continue
			}
			r := rung{flags: unix.XDP_USE_NEED_WAKEUP, zeroCopy: zeroCopy, multi: multi}
			if multi {
				r.flags |= unix.XDP_USE_SG
			}
			if zeroCopy {
				r.flags |= unix.XDP_ZEROCOPY
			} else {
				r.flags |= unix.XDP_COPY
			}
			rungs = append(rungs, r)
		}
	}
	return rungs
}

// Open makes a socket and binds it. The error says for each way why it was
// refused, and what to do; errors.Is finds the errno, and ErrPermission,
// ErrQueueBusy and ErrUnsupported.
func Open(c Config) (*Socket, error) { return open(kernel{}, c) }

func open(k calls, c Config) (*Socket, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	var s *Socket
	err := c.UMEM.Bind(func(shared *umem.Binding) (umem.Binding, error) {
		var err error
		if shared != nil {
			// The kernel takes no flags here: the way is that of the first.
			s, err = climb(k, &c, shared.FD, rung{flags: unix.XDP_SHARED_UMEM, multi: shared.MultiBuffer})
		} else {
			s, err = firstOf(k, &c)
		}
		if err != nil {
			return umem.Binding{}, err
		}
		return umem.Binding{FD: s.fd, MultiBuffer: s.multi}, nil
	})
	return s, err
}

// firstOf walks down the ladder.
func firstOf(k calls, c *Config) (*Socket, error) {
	var refused []error
	for _, r := range c.ladder() {
		s, err := climb(k, c, -1, r)
		if err == nil {
			s.refused = refused
			return s, nil
		}
		refused = append(refused, fmt.Errorf("%v: %w", r, err))
		if !errors.Is(err, ErrUnsupported) {
			break // the other rungs would fail alike
		}
	}
	return nil, errors.Join(refused...)
}

// climb makes one socket and binds it as r says.
func climb(k calls, c *Config, shared int, r rung) (_ *Socket, err error) {
	fd, err := k.socket()
	if err != nil {
		return nil, explain("socket", err)
	}
	s := &Socket{calls: k, fd: fd, umem: c.UMEM}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.undo())
		}
	}()
	if shared < 0 {
		if err := k.registerUMEM(fd, c.UMEM.Bytes()); err != nil {
			return nil, explain(fmt.Sprintf("register a UMEM of %d MiB", len(c.UMEM.Bytes())>>20), err)
		}
	}
	if err := s.setUp(c); err != nil {
		return nil, err
	}
	if err := s.mapRings(c); err != nil {
		return nil, err
	}
	if err := s.bind(c, shared, r); err != nil {
		return nil, err
	}
	if s.zeroCopy, err = k.zeroCopy(fd); err != nil {
		return nil, explain("ask for the mode", err)
	}
	s.multi = r.multi
	return s, nil
}

// setUp sizes the rings and sets the options.
func (s *Socket) setUp(c *Config) error {
	type option struct {
		what              string
		level, name, want int
	}
	options := []option{
		{"fill ring", unix.SOL_XDP, unix.XDP_UMEM_FILL_RING, int(c.FillEntries)},
		{"completion ring", unix.SOL_XDP, unix.XDP_UMEM_COMPLETION_RING, int(c.CompletionEntries)},
		{"RX ring", unix.SOL_XDP, unix.XDP_RX_RING, int(c.RXEntries)},
		{"TX ring", unix.SOL_XDP, unix.XDP_TX_RING, int(c.TXEntries)},
	}
	if b := c.BusyPoll; b.Duration > 0 {
		options = append(options,
			option{"SO_PREFER_BUSY_POLL", unix.SOL_SOCKET, unix.SO_PREFER_BUSY_POLL, 1},
			option{"SO_BUSY_POLL", unix.SOL_SOCKET, unix.SO_BUSY_POLL, int(max(b.Duration/time.Microsecond, 1))})
		if b.Budget > 0 {
			options = append(options, option{"SO_BUSY_POLL_BUDGET", unix.SOL_SOCKET, unix.SO_BUSY_POLL_BUDGET, b.Budget})
		}
	}
	for _, o := range options {
		if err := s.calls.setInt(s.fd, o.level, o.name, o.want); err != nil {
			return explain(fmt.Sprintf("%s of %d", o.what, o.want), err)
		}
	}
	// An older kernel refuses, and sends 32.
	_ = s.calls.setInt(s.fd, unix.SOL_XDP, unix.XDP_MAX_TX_SKB_BUDGET, int(min(txBudget, c.TXEntries)))
	if c.SendBufferBytes > 0 {
		// Beyond net.core.wmem_max only with CAP_NET_ADMIN; without it, less.
		if s.calls.setInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, c.SendBufferBytes) != nil {
			if err := s.calls.setInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, c.SendBufferBytes); err != nil {
				return explain("send buffer", err)
			}
		}
	}
	return nil
}

// txBudget is how many frames one WakeTX sends in copy mode, where the kernel lets
// us say (Linux 6.17); else 32. More would hold up who else wants the core.
const txBudget = 128

// bindPatience is how long Open waits for the queue. A socket that was just
// closed, by a process that restarts, keeps its queue until a worker of the
// kernel has come round (xp_release_deferred), which nothing announces.
const (
	bindPatience = time.Second
	bindPause    = 5 * time.Millisecond
)

func (s *Socket) bind(c *Config, shared int, r rung) error {
	sa := unix.SockaddrXDP{Flags: r.flags, Ifindex: uint32(c.Interface), QueueID: uint32(c.Queue)}
	if shared >= 0 {
		sa.SharedUmemFD = uint32(shared)
	}
	err := s.calls.bind(s.fd, &sa)
	for waited := time.Duration(0); errors.Is(err, syscall.EBUSY) && waited < bindPatience; waited += bindPause {
		s.calls.pause(bindPause)
		err = s.calls.bind(s.fd, &sa)
	}
	if err != nil {
		return explain(fmt.Sprintf("bind to queue %d", c.Queue), err)
	}
	return nil
}

// FD is the descriptor, for poll(2) and for the program's table of sockets.
// Valid until Close.
func (s *Socket) FD() int { return s.fd }

// ZeroCopy tells whether the NIC works in the UMEM itself.
func (s *Socket) ZeroCopy() bool { return s.zeroCopy }

// MultiBuffer tells whether frames may take several chunks.
func (s *Socket) MultiBuffer() bool { return s.multi }

// Refused says for each better way why the kernel didn't grant it.
func (s *Socket) Refused() []error { return s.refused }

// WakeTX has the kernel look at the TX ring; in copy mode it sends up to 32
// or 128 frames within the call. 0 means that it did; EAGAIN, EBUSY and ENOBUFS that
// there may be more to do; ENETDOWN that the interface is down; ENXIO that it
// is gone.
func (s *Socket) WakeTX() syscall.Errno { return s.calls.wakeTX(s.fd) }

// WakeRX has the kernel look at the fill ring and, with busy polling, run the
// driver. The same errors.
func (s *Socket) WakeRX() syscall.Errno { return s.calls.wakeRX(s.fd) }

// Stats are the kernel's counters of one socket.
type Stats struct {
	RXDropped      uint64 // too long for a chunk, or in copy mode: no chunk in the fill ring
	RXRingFull     uint64 // no room in the RX ring
	FillRingEmpty  uint64 // looks at an empty fill ring: drops, but for the copy mode's above
	RXInvalidDescs uint64 // ours in the fill ring that made no sense
	TXInvalidDescs uint64 // ours in the TX ring that made no sense
	TXRingEmpty    uint64 // looks at an empty TX ring; harmless
}

// Stats asks the kernel (XDP_STATISTICS).
func (s *Socket) Stats() (Stats, error) {
	st, err := s.calls.statistics(s.fd)
	if err != nil {
		return Stats{}, explain("statistics", err)
	}
	return Stats{
		RXDropped: st.Rx_dropped, RXRingFull: st.Rx_ring_full, FillRingEmpty: st.Rx_fill_ring_empty_descs,
		RXInvalidDescs: st.Rx_invalid_descs, TXInvalidDescs: st.Tx_invalid_descs, TXRingEmpty: st.Tx_ring_empty_descs,
	}, nil
}

// Close unmaps the rings and closes the socket: the kernel lets go of the queue,
// and of the chunks that it has, before it returns. The rings must not be
// touched any more.
func (s *Socket) Close() error {
	if s.fd < 0 {
		return nil
	}
	return s.umem.Unbind(s.fd, s.undo)
}

// undo releases what there is.
func (s *Socket) undo() error {
	var errs []error
	for _, m := range s.maps {
		errs = append(errs, s.calls.munmap(m))
	}
	errs = append(errs, s.calls.close(s.fd))
	s.maps, s.fd, s.Rings = nil, -1, ring.Set{}
	return errors.Join(errs...)
}
