package xdplink

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// How long Wait sleeps for a send buffer to come back when all are with the
// device, since completions wake nobody: first about what a NIC takes to send a
// ring full, then twice as long each time, for a device that is stuck or down.
const (
	completionPauseMin = 50 * time.Microsecond
	completionPauseMax = 10 * time.Millisecond
)

// Wait sleeps in ppoll(2) on the socket, an eventfd, an alarm and what is watched, or dozes on them when there
// is no traffic. A poll in copy mode also sends what is left in the TX ring.
func (l *Link) Wait(timeout time.Duration) error {
	if err := l.ended(); err != nil {
		return err
	}
	if l.queue.Arrived() || l.woken.Swap(false) {
		return l.ended()
	}
	if l.short {
		l.queue.Reap()
		if l.short = l.queue.InFlight() == l.device.layout.TxSlots; !l.short {
			l.pause = 0
			return nil
		}
		l.pause = min(max(2*l.pause, completionPauseMin), completionPauseMax)
		if timeout < 0 || timeout > l.pause {
			timeout = l.pause
		}
	}
	// From here on Wake writes to the eventfd. It sets woken first and then looks
	// at sleeping, and we the other way round, so one of us sees the other.
	l.sleeping.Store(true)
	defer l.sleeping.Store(false)
	if l.woken.Swap(false) {
		return l.ended()
	}
	if err := l.sleep(timeout); err != nil {
		return err
	}
	l.woken.Store(false)
	return l.ended()
}

// sleep polls, and takes from the eventfd what Wake wrote.
func (l *Link) sleep(timeout time.Duration) error {
	var until *unix.Timespec
	l.poll[2].Fd = -1 // which poll leaves out
	switch {
	case timeout == 0:
		until = &atOnce
	case timeout > 0:
		if err := l.alarm.Set(timeout); err != nil {
			return fmt.Errorf("xdplink: %w", err)
		}
		l.poll[2].Fd = int32(l.alarm.FD())
	}
	if timeout != 0 {
		l.stats.waits.Add(1)
		defer l.doze.End()
		if l.doze.Begin(len(l.poll) == watchedFrom) {
			if err := l.dozeOff(timeout < 0); err != nil {
				return err
			}
			until = &atOnce
		}
	}
	l.stats.syscalls.Add(1)
	l.poll[0].Revents, l.poll[1].Revents = 0, 0
	if _, err := unix.Ppoll(l.poll, until, nil); err != nil && err != unix.EINTR {
		return fmt.Errorf("xdplink: poll: %w", err)
	}
	if l.poll[1].Revents != 0 {
		l.stats.syscalls.Add(1)
		var count [8]byte
		// Non-blocking: nothing to read is what it should be then.
		_, _ = unix.Read(int(l.poll[1].Fd), count[:])
	}
	return nil
}

// dozeOff sleeps without a processor.
func (l *Link) dozeOff(forever bool) error {
	if forever { // but an alarm that has rung goes on until it is set
		if err := l.alarm.Set(time.Hour); err != nil {
			return fmt.Errorf("xdplink: %w", err)
		}
	}
	if err := l.doze.Doze(); err != nil {
		return fmt.Errorf("xdplink: %w", err)
	}
	return nil
}

// watchedFrom is where in Link.poll the sources begin.
const watchedFrom = 3

// Watch implements link.Watcher.
func (l *Link) Watch(fds []int) {
	l.poll = l.poll[:watchedFrom]
	for _, fd := range fds {
		l.poll = append(l.poll, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
}

// atOnce is a timeout of 0.
var atOnce unix.Timespec

// Wake ends the present Wait or the next.
func (l *Link) Wake() {
	if l.woken.Swap(true) || !l.sleeping.Load() {
		return
	}
	l.life.RLock()
	defer l.life.RUnlock()
	if !l.life.closed {
		// It can't fail but when the counter is full: then the sleeper wakes anyway.
		_, _ = unix.Write(l.life.event, one[:])
	}
}

// one is an eventfd's increment by 1.
var one = [8]byte{1}
