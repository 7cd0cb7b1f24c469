// Package doze sleeps without a processor. A goroutine that sleeps in poll(2) keeps
// its P for 10 ms, and for as long Go's monitor thread is up every 20 us, then less often: sixty
// wake-ups of a thread for one sleep, which are half of what a node costs that has nothing to
// do. Go's own poller keeps no P, but has whichever thread take what has come, and a pump with
// traffic costs more that way. So a pump dozes until several sleeps in a row were short.
//
// Its last doze leaves Go's poller to nobody: the thread that waited there runs the pump, the others sleep
// since one waited, and none is woken when a goroutine goes to poll(2). What then comes for
// others, the readers of hosts' connections, is found by the monitor thread, 10 to 20 ms late. So
// before that sleep the pump gives way once, for which Go wakes a thread that ends up in the poller.
package doze

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"blockd.dev/internal/clock"
)

const (
	// long is a sleep from which on there is no traffic to speak of.
	long = 2 * time.Millisecond
	// busyAfter is how many shorter ones in a row are traffic. A ping, its answer and what
	// follows of them are fewer.
	busyAfter = 6
)

// Sleeper is one goroutine's.
type Sleeper struct {
	poller *os.File // an epoll instance, which Go's watches
	raw    syscall.RawConn
	epoll  int // its descriptor
	fds    []int
	ready  func(fd uintptr) bool
	err    error // of ready
	found  [1]unix.EpollEvent
	clock  clock.Fast
	began  clock.Mono
	short  int  // sleeps since the last long one
	dozes  bool // in the present sleep, or the last
}

// Open makes a Sleeper that wakes when one of fds is readable, or has failed. They are to be closed after it.
func Open(fds ...int) (*Sleeper, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("doze: epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // os.NewFile gives only those to Go's poller
		_ = unix.Close(fd)
		return nil, fmt.Errorf("doze: epoll: %w", err)
	}
	s := &Sleeper{poller: os.NewFile(uintptr(fd), "doze"), epoll: fd, fds: fds}
	if s.raw, err = s.poller.SyscallConn(); err != nil {
		_ = s.poller.Close()
		return nil, fmt.Errorf("doze: %w", err)
	}
	s.ready = s.look
	return s, nil
}

// Begin comes before a sleep, and tells whether it is to be a Doze, if it may be.
func (s *Sleeper) Begin(may bool) bool {
	dozed := s.dozes
	s.dozes = may && s.short < busyAfter
	if dozed && !s.dozes {
		runtime.Gosched()
	}
	s.began = s.clock.Now()
	return s.dozes
}

// End comes after it.
func (s *Sleeper) End() {
	if s.clock.Now().Sub(s.began) >= long {
		s.short = 0
	} else {
		s.short = min(s.short+1, busyAfter)
	}
}

// Doze returns when something is readable. The instance watches for no longer than that:
// otherwise all that comes while the goroutine is up would wake Go's poller, in vain.
func (s *Sleeper) Doze() error {
	if err := s.watch(unix.EPOLL_CTL_ADD); err != nil {
		return err
	}
	if err := s.raw.Read(s.ready); err != nil {
		return fmt.Errorf("doze: %w", err)
	}
	return errors.Join(s.err, s.watch(unix.EPOLL_CTL_DEL))
}

func (s *Sleeper) watch(op int) error {
	for _, fd := range s.fds {
		if err := unix.EpollCtl(s.epoll, op, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			return fmt.Errorf("doze: epoll: %w", err)
		}
	}
	return nil
}

func (s *Sleeper) look(fd uintptr) bool {
	n, err := unix.EpollWait(int(fd), s.found[:], 0)
	if err == unix.EINTR {
		err = nil
	}
	if err != nil {
		s.err = fmt.Errorf("doze: epoll: %w", err)
	}
	return n > 0 || err != nil
}

// Close is to be called once.
func (s *Sleeper) Close() error { return s.poller.Close() }
