package daemon

import (
	"sync/atomic"
	"testing"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/tools/blockbench/iscsihost"
)

// lateClock is ahead by what a test sets.
type lateClock struct{ ahead atomic.Int64 }

func (c *lateClock) Now() clock.Mono { return clock.Boot{}.Now().Add(time.Duration(c.ahead.Load())) }

// unavailable is LOGICAL UNIT NOT ACCESSIBLE, TARGET PORT IN UNAVAILABLE STATE.
var unavailable = iscsihost.Sense{Key: 2, ASC: 0x040c}

// Before a node that stops ends the sessions of its hosts it sends those to their other paths that
// have some and look after them. Whoever has none, or does not use them, is told nothing.
func TestStopSendsHostsToOtherPaths(t *testing.T) {
	t.Parallel()
	late := &lateClock{}
	a, nodes := nodesOf(t, 3, func(c *Config) { c.hostClock = late })
	id := sharedVolumeOn(t, a, nodes, "v")
	mapToAny(t, a, nodes[0], "v")
	owner := ownerOf(t, nodes, id)
	other := nodes[0]
	if other == owner {
		other = nodes[1]
	}
	login := func(n *testNode, name string) *iscsihost.Session {
		d := n.Daemon()
		s, err := iscsihost.Dial(t.Context(), iscsihost.Config{Address: d.ISCSIAddresses()[0], Target: d.catalog.State().IQN, Initiator: name})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() }) // the node may be gone before
		return s
	}
	const both, idle, single = "iqn.2026-01.dev.blockd:both", "iqn.2026-01.dev.blockd:idle", "iqn.2026-01.dev.blockd:single"
	tended := login(other, both)
	login(other, idle)
	late.ahead.Add(int64(30 * time.Second))
	if r, err := tended.Command(make([]byte, 6), nil, false); err != nil || r.Err() != nil {
		t.Fatal(err, r.Err())
	}

	type end struct {
		result iscsihost.Result
		err    error
		lasts  time.Duration // for which the session was there after that
	}
	ends := map[string]chan end{}
	for _, name := range []string{both, idle, single} {
		s := login(owner, name)
		ended := make(chan end, 1)
		ends[name] = ended
		read := func() (iscsihost.Result, error) {
			return s.Command([]byte{0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0}, make([]byte, 4096), false)
		}
		if r, err := read(); err != nil || r.Err() != nil {
			t.Fatal(err, r.Err())
		}
		go func() {
			var e end
			for e.err == nil && (e.result.Status == 0 || e.result.Sense.Key == 6) {
				e.result, e.err = read()
			}
			at := time.Now()
			<-s.Gone()
			e.lasts = time.Since(at)
			ended <- e
		}()
	}
	owner.stop()
	if e := <-ends[both]; e.err != nil || e.result.Sense != unavailable {
		t.Errorf("a host with another path: %+v, want %+v", e, unavailable)
	} else if e.lasts < 100*time.Millisecond {
		t.Errorf("its session has ended %v after it was refused: it may have been sending more", e.lasts)
	}
	for _, name := range []string{idle, single} {
		if e := <-ends[name]; e.err == nil {
			t.Errorf("%s: %+v, want the end of the session alone", name, e)
		}
	}
}
