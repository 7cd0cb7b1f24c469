// Package alarm ends sleeps in poll(2) in time, for less than a timeout costs.
// Most sleeps of a link end by a datagram, long before their timeout, and the
// kernel sets up and takes down a timer for each of them: on a virtual machine
// that is several microseconds, since every change of the next timer leaves the
// guest. An Alarm is a timerfd(2) that stays set, and is set anew only when it
// would ring too late. When it rings too early, the sleep ends early, and
// the next one sets it.
package alarm

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"blockd.dev/internal/clock"
)

// Alarm is one goroutine's, but for FD.
type Alarm struct {
	fd    int
	rings clock.Mono // when, or when it did; 0 for never yet
	clock clock.Fast // timerfd's
}

// Open makes an Alarm that is not set.
func Open() (*Alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("alarm: timerfd: %w", err)
	}
	return &Alarm{fd: fd}, nil
}

// FD is readable from when the Alarm rings until it is set again.
func (a *Alarm) FD() int { return a.fd }

// Set makes it ring within d, which is above zero, from now; it may ring
// earlier, but not before Set returns.
func (a *Alarm) Set(d time.Duration) error {
	now := a.clock.Now()
	at := now.Add(d)
	if now < a.rings && a.rings <= at {
		return nil
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}
	if err := unix.TimerfdSettime(a.fd, 0, &spec, nil); err != nil {
		return fmt.Errorf("alarm: set to %v: %w", d, err)
	}
	a.rings = at
	return nil
}

// Close is to be called once.
func (a *Alarm) Close() error { return unix.Close(a.fd) }
