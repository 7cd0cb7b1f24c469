package pulse

import (
	"slices"
	"testing"
	"time"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"

	"blockd.dev/internal/clock"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/lease"
	"blockd.dev/raftmeta/membership"
)

const (
	me    = "01000000000000000000000000000001"
	other = "01000000000000000000000000000002"
)

var (
	vol = lease.VolumeID{1}
	ms  = clock.Mono(time.Millisecond)
)

// told writes down what Events is told.
type told []string

func (e *told) Acquired(l *lease.Lease, waits clock.Mono) {
	*e = append(*e, "acquired")
	if waits == 0 {
		*e = append(*e, "without a reading")
	}
}
func (e *told) Lost(catalog.ID)     { *e = append(*e, "lost") }
func (e *told) Recalled(catalog.ID) { *e = append(*e, "recalled") }

func (h *holding) tell() []string {
	var e told
	for _, tell := range h.news {
		tell(&e)
	}
	h.news = nil
	return e
}

func newTestHolding() *holding {
	return newHolding(&Config{Node: me, Incarnation: 4, Times: Defaults})
}

// owned is a table in which this node owns vol in an epoch.
func owned(t *testing.T, epoch uint64) lease.Table {
	t.Helper()
	return grant(t, lease.Table{}, epoch, me, 4)
}

func grant(t *testing.T, table lease.Table, epoch uint64, owner string, incarnation uint64) lease.Table {
	t.Helper()
	for table.Get(vol).Epoch < epoch {
		var err error
		if table, _, err = table.Grant(vol, table.Get(vol).Epoch, owner, incarnation); err != nil {
			t.Fatal(err)
		}
	}
	return table
}

func answer(req *blockdv1.PulseRequest, verdicts ...lease.Verdict) *blockdv1.PulseResponse {
	res := &blockdv1.PulseResponse{Number: req.GetNumber()}
	for _, v := range verdicts {
		res.Verdicts = append(res.Verdicts, byte(v))
	}
	return res
}

// A lease is claimed at once, served when that was confirmed, and given back
// until the catalog shows it.
func TestLifeOfALease(t *testing.T) {
	h := newTestHolding()
	if req := h.pulse(1000 * ms); req.GetNode() != me || req.GetIncarnation() != 4 || req.GetNumber() != 1 || len(req.GetClaims()) != 0 {
		t.Fatalf("the first pulse is %v", req)
	}
	h.learn(1100*ms, owned(t, 1))
	if h.wake() > 1100*ms || len(h.news) != 0 {
		t.Fatalf("a grant is not claimed at once, or served before it was confirmed: %d, %v", h.wake(), h.tell())
	}
	req := h.pulse(1101 * ms)
	if len(req.GetClaims()) != 1 || req.GetClaims()[0].GetEpoch() != 1 {
		t.Fatalf("claims %v", req.GetClaims())
	}
	h.answered(answer(req, lease.Renewed))
	if got := h.tell(); !slices.Equal(got, []string{"acquired"}) {
		t.Fatal(got)
	}
	end := h.mine[vol].lease.Deadline()
	if want := clock.Mono(1101*ms) + clock.Mono(Defaults.Lease.Duration-Defaults.Lease.Margin); end != want {
		t.Errorf("it lasts until %d, not %d", end, want)
	}
	req = h.pulse(1350 * ms)
	h.answered(answer(req, lease.Recalled))
	h.answered(answer(h.pulse(1600*ms), lease.Recalled))
	if got := h.tell(); !slices.Equal(got, []string{"recalled"}) {
		t.Fatal(got)
	}
	h.gaveBack(vol)
	if h.next > 0 {
		t.Error("a release waits for the next pulse")
	}
	for range 2 { // the first may get lost
		if req := h.pulse(1700 * ms); len(req.GetClaims()) != 0 || len(req.GetReleases()) != 1 || req.GetReleases()[0].GetEpoch() != 1 {
			t.Fatalf("%v", req)
		}
	}
	released, err := owned(t, 1).Release(vol, 1, me, 4)
	if err != nil {
		t.Fatal(err)
	}
	h.learn(1800*ms, released)
	if req := h.pulse(1900 * ms); len(req.GetReleases()) != 0 || len(h.mine)+len(h.back) != 0 {
		t.Errorf("it is given back for ever: %v", req)
	}
	if got := h.tell(); len(got) != 0 {
		t.Errorf("who gave it back is told %v", got)
	}
}

// A lease that nobody renewed is lost at its end, for good, and is given back
// when what was served under it is off the machine.
func TestLeaseEndsByTheClock(t *testing.T) {
	h := newTestHolding()
	h.learn(1000*ms, owned(t, 1))
	req := h.pulse(1000 * ms)
	h.answered(answer(req, lease.Renewed))
	late := h.pulse(1500 * ms)
	end := h.mine[vol].lease.Deadline()
	if h.lapse(end - 1); len(h.mine) != 1 {
		t.Fatal("it is over too early")
	}
	h.lapse(end)
	if got := h.tell(); !slices.Equal(got, []string{"acquired", "lost"}) {
		t.Fatal(got)
	}
	if req := h.pulse(end); len(req.GetReleases()) != 0 || h.wake() != end.Add(Defaults.Lease.Margin) {
		t.Errorf("it is given back before the margin has passed: %v, wake at %d", req, h.wake())
	}
	if req := h.pulse(end.Add(Defaults.Lease.Margin)); len(req.GetReleases()) != 1 {
		t.Errorf("it is not given back: %v", req)
	}
	h.answered(answer(late, lease.Renewed))
	h.learn(end+1, owned(t, 1))
	if len(h.mine) != 0 || len(h.tell()) != 0 {
		t.Error("it came back in the same epoch")
	}
	h.learn(end+2, owned(t, 2))
	if h.gaveBack(vol); len(h.mine) != 1 {
		t.Error("what was never acquired is given back")
	}
	h.answered(answer(h.pulse(end+3), lease.Renewed))
	if got := h.tell(); !slices.Equal(got, []string{"acquired"}) || len(h.back) != 0 {
		t.Errorf("the next epoch: %v", got)
	}
}

// Another owner, a refusal and the end of the volume are losses.
func TestLosses(t *testing.T) {
	for name, lose := range map[string]func(h *holding){
		"another owner": func(h *holding) { h.learn(2000*ms, grant(t, owned(t, 1), 2, other, 1)) },
		"a refusal":     func(h *holding) { h.answered(answer(h.pulse(1200*ms), lease.Refused)) },
		"no volume":     func(h *holding) { h.learn(2000*ms, lease.Table{}) },
	} {
		h := newTestHolding()
		h.learn(1000*ms, owned(t, 1))
		h.answered(answer(h.pulse(1000*ms), lease.Renewed))
		lose(h)
		if got := h.tell(); !slices.Equal(got, []string{"acquired", "lost"}) || len(h.mine) != 0 || len(h.back) != 0 {
			t.Errorf("%s: %v, %d back", name, got, len(h.back))
		}
	}
	// What was never confirmed was never served.
	h := newTestHolding()
	h.learn(1000*ms, owned(t, 1))
	h.learn(2000*ms, grant(t, owned(t, 1), 2, other, 1))
	if got := h.tell(); len(got) != 0 {
		t.Error(got)
	}
}

// That a process died is told at once, and once; opinions are forgotten.
func TestOpinions(t *testing.T) {
	h := newTestHolding()
	h.pulse(1000 * ms)
	h.saw(1001*ms, other, 7, membership.Hears)
	if h.next == 0 {
		t.Error("nothing new is told at once")
	}
	h.saw(1002*ms, other, 7, membership.Died)
	if h.next != 0 {
		t.Error("a death is not told at once")
	}
	req := h.pulse(1003 * ms)
	if o := req.GetOpinions(); len(o) != 1 || o[0].GetNode() != other || o[0].GetIncarnation() != 7 || o[0].GetWhat() != "died" {
		t.Errorf("%v", o)
	}
	h.saw(1004*ms, other, 7, membership.Died)
	if h.next == 0 {
		t.Error("a death is told at once, again and again")
	}
	if req := h.pulse(1004*ms + 9*clock.Mono(Defaults.Every)); len(req.GetOpinions()) != 0 {
		t.Errorf("%v", req.GetOpinions())
	}
}
