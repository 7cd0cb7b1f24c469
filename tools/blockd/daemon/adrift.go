package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/raftmeta/catalog"
)

// A volume is adrift on the node whose lease of it has ended without that node's learning who has the next
// one: the node is cut off from the others, as a rule, and they have an owner by now. Hosts that it
// tells to come again do so by the same path, Linux for as long as it takes. So those that have a path to
// another node are sent there (scsi.Target.Divert, nvme.Subsystem.Divert).
//
//   - Not while a majority of the nodes hears this one: it will have an owner soon, and who is
//     silent is cut off.
//   - Only hosts that have a path to a node that is silent now, and said so shortly before. A node
//     that answers is on this side of the cut, and one whose process has ended serves nobody.
//   - Only by the node that was the owner: when all nodes are apart, the paths to the others stay.
//   - For divertedFor. If it was not this node that was cut off, but the others have gone without a
//     word, hosts find that out in their time, and must be able to wait here by then: one whose paths
//     have all failed may give up.
//
// All other hosts see what they see without that: they wait. Nothing is served meanwhile, as ever.

const (
	// pathsEvery is the time between two times that the owner of volumes asks the other nodes for the
	// paths of its hosts: while hosts are connected to it, and not otherwise.
	pathsEvery = 5 * time.Second
	// pathsKept is how old an answer may be that counts.
	pathsKept = 3 * pathsEvery
	// adriftFor is how long a lease must have been over. A node that is not cut off learns
	// what is next, or has the volume again, within some 10 ms.
	adriftFor = 100 * time.Millisecond
	// divertEvery is the time between two looks at what hosts are still waiting for.
	divertEvery = 50 * time.Millisecond
	// divertedFor is how long hosts are sent away. The next owner needs 1.2 s after the last renewal, and
	// up to 1.5 s more with another leader; and multipathd has to learn of it, which looks at a path that has
	// failed after 5 s. Linux takes one that is silent for failed after 10 s at the earliest over
	// iSCSI, unless told otherwise, and over NVMe/TCP waits whatever it takes.
	divertedFor = 8 * time.Second
)

// away are the paths of hosts through other nodes, as those have told.
type away struct {
	clock clock.Clock
	told  map[catalog.ID]toldPaths
}

type toldPaths struct {
	at    clock.Mono
	paths []path
}

// learn takes what the nodes say. One that is silent has what it said before.
func (a *away) learn(answers []peerAnswer[[]path]) {
	for _, r := range answers {
		switch {
		case r.err == nil:
			a.told[r.node.ID] = toldPaths{a.clock.Now(), r.value}
		case errors.Is(r.err, syscall.ECONNREFUSED), errors.Is(r.err, syscall.ECONNRESET):
			delete(a.told, r.node.ID) // its process has ended
		}
	}
}

// through are the paths by those of the nodes asked that are silent.
func (a *away) through(answers []peerAnswer[[]path]) map[path]bool {
	out := map[path]bool{}
	for _, r := range answers {
		t, ok := a.told[r.node.ID]
		if r.err == nil || !ok || a.clock.Now().Sub(t.at) > pathsKept {
			continue
		}
		for _, p := range t.paths {
			out[p] = true
		}
	}
	return out
}

// sender sends hosts to other nodes. It belongs to one goroutine.
type sender struct {
	*sharing
	ask   func(context.Context, []catalog.ID) []peerAnswer[[]path] // Daemon.askForPaths
	known away
	sent  map[catalog.ID]uint64 // the epoch that had ended when hosts of the volume were sent away last
}

func (s *sharing) newSender() *sender {
	return &sender{s, s.d.askForPaths, away{clock.Boot{}, map[catalog.ID]toldPaths{}}, map[catalog.ID]uint64{}}
}

// sendAway sends hosts to other nodes for the volumes that are adrift, until ctx ends.
func (s *sharing) sendAway(ctx context.Context) {
	if s.d.target == nil {
		return
	}
	w := s.newSender()
	tick := time.NewTicker(pathsEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			w.look(ctx, s.leased())
		case <-s.over:
			if sleep(ctx, adriftFor) {
				w.divert(ctx)
			}
		}
	}
}

// look asks for the paths of hosts elsewhere, and notes the answers.
func (w *sender) look(ctx context.Context, volumes []catalog.ID) []peerAnswer[[]path] {
	answers := w.ask(ctx, volumes)
	w.known.learn(answers)
	return answers
}

// divert sends hosts that have paths elsewhere away from what is adrift, while it is, or for divertedFor.
func (w *sender) divert(ctx context.Context) {
	ids := w.adrift()
	if len(ids) == 0 || w.d.stopping.Load() {
		return
	}
	answers := w.look(ctx, ids)
	elsewhere := w.known.through(answers)
	if len(elsewhere) == 0 || w.d.majority(answers) {
		return
	}
	began, paths := time.Now(), 0
	for ids = w.adrift(); len(ids) > 0 && time.Since(began) < divertedFor; ids = w.adrift() {
		more := w.d.divert(func(host string, volume [16]byte) bool {
			return slices.Contains(ids, catalog.ID(volume)) && elsewhere[path{host, volume}]
		})
		if more > 0 {
			w.d.events.add(levelWarning, "paths.diverted", w.d.nodeName(), fmt.Sprintf(
				"hosts are sent to other nodes by %d paths: the leases of %d volumes have ended here, and nodes that may have them now are silent", more, len(ids)))
		}
		paths += more
		if !sleep(ctx, divertEvery) {
			break
		}
	}
	for _, id := range ids {
		if last, ok := w.d.catalog.State().Lease(id); ok {
			w.sent[id] = last.Epoch
		}
	}
	if paths > 0 {
		w.d.readmit()
		w.d.events.add(levelInfo, "paths.readmitted", w.d.nodeName(), fmt.Sprintf("%d paths of hosts, after %v", paths, time.Since(began).Round(time.Millisecond)))
	}
}

// majority reports whether this node and those that have answered are one, of the voters.
func (d *Daemon) majority(answers []peerAnswer[[]path]) bool {
	heard := map[string]bool{d.plane.id().String(): true}
	for _, r := range answers {
		if r.err == nil {
			heard[r.node.ID.String()] = true
		}
	}
	voters, up := 0, 0
	for _, m := range d.plane.group.Stats().Members {
		if m.Voter {
			voters++
			if heard[m.ID] {
				up++
			}
		}
	}
	return up > voters/2
}

// divert sends hosts away from volumes, and turns away what they are waiting for. It returns how many
// paths are new among them.
func (d *Daemon) divert(match func(host string, volume [16]byte) bool) (paths int) {
	paths = d.target.Divert(match)
	if d.nvme.subsystem != nil {
		paths += d.nvme.subsystem.Divert(match)
	}
	return paths
}

// readmit ends what divert has begun.
func (d *Daemon) readmit() {
	d.target.Readmit()
	if d.nvme.subsystem != nil {
		d.nvme.subsystem.Readmit()
	}
}

// adrift are the volumes whose leases have ended here, and whose next owner is not known; not those
// whose hosts were sent away since.
func (w *sender) adrift() (out []catalog.ID) {
	state := w.d.catalog.State()
	for _, v := range w.all() {
		w.mu.Lock()
		_, have := w.leases[v.id]
		w.mu.Unlock()
		owned := v.owned.Load()
		last, _ := state.Lease(v.id)
		if !have && owned != nil && last.Owner == w.d.plane.id() && last.Epoch == owned.epoch && w.sent[v.id] != owned.epoch {
			out = append(out, v.id)
		}
	}
	return out
}

// leased are the volumes that this node has a lease of.
func (s *sharing) leased() []catalog.ID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.leases))
}

// ended says that a lease has.
func (s *sharing) ended() {
	select {
	case s.over <- struct{}{}:
	default:
	}
}

// sleep returns false when ctx has ended before d has passed.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
