package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/target/iscsi"
	"blockd.dev/target/nvmetcp"
)

// A standstill is a break in which the process did not run: the machine was
// suspended, a VM was paused, or there was no processor time. Hosts that have other
// paths to a volume may have given up this one meanwhile, sent their requests
// by another and gone on to newer ones. What they had sent here lies in the
// sockets, in front of the news that they closed them. So after a standstill no
// change of a shared volume is begun (device.Config.Since) until all
// connections from before it have ended.
type standstill struct {
	clock clock.Clock
	ran   atomic.Int64 // reading at which the process was last known to run
	since atomic.Int64 // reading of the end of the last standstill
}

const (
	// standstillMin is the shortest break that counts. With device.Config.Late it
	// is how old a request can be when it is begun: 3 s, where hosts wait for 5 s and more
	// before they give up a path.
	standstillMin = time.Second
	// standstillLook is the time between two readings.
	standstillLook = 100 * time.Millisecond
	// standstillPoll is the time between two looks at what connections are left.
	standstillPoll = 10 * time.Millisecond
)

func newStandstill(c clock.Clock) *standstill {
	s := &standstill{clock: c}
	s.begin()
	return s
}

// over is the reading from which on the process has run, or clock.Never when it
// has just stood still, as the reading now tells, and that is not dealt with.
func (s *standstill) over(now clock.Mono) clock.Mono {
	if now.Sub(clock.Mono(s.ran.Load())) >= standstillMin {
		return clock.Never
	}
	return clock.Mono(s.since.Load())
}

// begin comes before hosts can connect: what was until then, a long start, is no standstill.
func (s *standstill) begin() { s.ran.Store(int64(s.clock.Now())) }

// watch deals with standstills until ctx ends: tell is told of each, drop ends the
// connections of hosts that were made before a time, and returns how many there
// still were.
func (s *standstill) watch(ctx context.Context, tell func(time.Duration), drop func(before time.Time) int) {
	tick := time.NewTicker(standstillLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := s.clock.Now()
		if d := now.Sub(clock.Mono(s.ran.Load())); d >= standstillMin {
			before := time.Now()
			tell(d)
			for drop(before) > 0 {
				select {
				case <-ctx.Done():
					return
				case <-time.After(standstillPoll):
				}
			}
			now = s.clock.Now()
			s.since.Store(int64(now))
		}
		s.ran.Store(int64(now))
	}
}

var errStoodStill = errors.New("the node stood still: what the host sent meanwhile may be out of date, it has to connect again")

func (s *sharing) stoodStill(d time.Duration) {
	s.d.events.add(levelWarning, "node.stood-still", s.d.nodeName(), fmt.Sprintf("the process did not run for %v; hosts of shared volumes have to connect again", d.Round(time.Millisecond)))
}

// dropHosts ends the connections that were made before a time, if there are
// shared volumes that they could be for.
func (s *sharing) dropHosts(before time.Time) (left int) {
	if len(s.all()) == 0 {
		return 0
	}
	if s.d.iscsi != nil {
		left += s.d.iscsi.Drop(errStoodStill, func(i iscsi.SessionInfo) bool { return i.Since.Before(before) })
	}
	if s.d.nvme.server != nil {
		left += s.d.nvme.server.Drop(errStoodStill, func(i nvmetcp.SessionInfo) bool { return i.Since.Before(before) })
	}
	return left
}
