package placement

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"blockd.dev/raftmeta/extmap"
)

// anyDisks makes disks of random sizes in random domains.
func anyDisks(t *rapid.T) []Disk {
	domains := rapid.IntRange(1, 8).Draw(t, "domains")
	var disks []Disk
	for i := range rapid.IntRange(1, 24).Draw(t, "disks") {
		disks = append(disks, Disk{
			Number:  extmap.Disk(i + 1),
			Domain:  fmt.Sprint("h", rapid.IntRange(1, domains).Draw(t, "domain")),
			Extents: uint32(rapid.IntRange(1, 60).Draw(t, "room")),
			State:   rapid.SampledFrom([]State{Up, Up, Up, Up, Draining, Down}).Draw(t, "state"),
		})
	}
	return disks
}

func cluster(t testing.TB, disks []Disk) *Cluster {
	t.Helper()
	c, err := New("host", disks)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// present returns the disks with what the map says they keep.
func present(m extmap.Map, disks []Disk) []Disk {
	disks = slices.Clone(disks)
	for i := range disks {
		disks[i].Used = m.Used(disks[i].Number)
	}
	return disks
}

// What Place chooses, the map accepts; nothing is overfull; and it gives up
// only when too few domains have room.
func TestPlaceKeepsTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disks := anyDisks(t)
		c, err := New("host", disks)
		if err != nil {
			t.Fatal(err)
		}
		p := rapid.SampledFrom([]extmap.Policy{{Replicas: 1}, {Replicas: 2}, {Replicas: 3}, {Data: 2, Parity: 1}, {Data: 4, Parity: 2}}).Draw(t, "policy")
		n := rapid.IntRange(1, 100).Draw(t, "n")
		sets, err := c.Place(p, n, rapid.Uint64().Draw(t, "seed"))
		m, _ := extmap.Map{}.Create(extmap.VolumeID{1}, p, uint32(n))
		if len(sets) > 0 {
			var refused error
			if m, refused = m.Allocate(extmap.VolumeID{1}, 0, sets, c); refused != nil {
				t.Fatal(refused)
			}
		}
		room := map[string]bool{}
		for _, d := range disks {
			if used := m.Used(d.Number); used > d.Extents || used != c.Used(d.Number) {
				t.Fatalf("disk %d of %d extents has %d, counted %d", d.Number, d.Extents, used, c.Used(d.Number))
			}
			if d.State == Up && m.Used(d.Number) < d.Extents {
				room[d.Domain] = true
			}
		}
		var impossible *Impossible
		if errors.As(err, &impossible) != (len(sets) < n*p.Width()) {
			t.Fatalf("%d disks for %d extents: %v", len(sets), n, err)
		}
		if impossible != nil && (len(room) >= p.Width() || impossible.Placed*p.Width() != len(sets)) {
			t.Fatalf("gave up after %d with room in %d domains: %v", impossible.Placed, len(room), err)
		}
	})
}

func TestImpossibleSaysWhy(t *testing.T) {
	c := cluster(t, []Disk{{Number: 1, Domain: "a", Extents: 5}, {Number: 2, Domain: "b", Extents: 5, State: Draining}, {Number: 3, Domain: "c", Extents: 1, Used: 1}})
	err := c.Explain(extmap.Policy{Replicas: 2})
	for _, words := range []string{"2 copies", "2 different hosts", "1 of 3 have: a", "disk 2 is draining", "disk 3 is full", "Add disks"} {
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q is missing in: %v", words, err)
		}
	}
	if err := c.Explain(extmap.Policy{Replicas: 1}); err != nil || c.Used(1) != 0 {
		t.Errorf("one copy is possible: %v, %d used", err, c.Used(1))
	}
	if _, err := New("host", []Disk{{Number: 1}, {Number: 1}}); err == nil {
		t.Error("two disks have one number")
	}
}

// carryOut starts the moves, which checks the domain rule, and finishes them.
func carryOut(m extmap.Map, c *Cluster, moves []extmap.Move) (extmap.Map, error) {
	m, err := m.StartMoves(extmap.VolumeID{1}, moves, c)
	if err != nil {
		return m, err
	}
	return m.FinishMoves(extmap.VolumeID{1}, moves)
}

// Draining or rebuilding disks in batches ends with nothing on them, or with
// what no other domain can take; limits hold; the map accepts each step.
func TestEvacuate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disks := anyDisks(t)
		for i := range disks {
			disks[i].State = Up
		}
		c, _ := New("host", disks)
		p := rapid.SampledFrom([]extmap.Policy{{Replicas: 2}, {Replicas: 3}, {Data: 2, Parity: 1}}).Draw(t, "policy")
		sets, _ := c.Place(p, 60, 1)
		if len(sets) == 0 {
			return
		}
		id := extmap.VolumeID{1}
		m, _ := extmap.Map{}.Create(id, p, 60)
		m, err := m.Allocate(id, 0, sets, c)
		if err != nil {
			t.Fatal(err)
		}
		gone := map[extmap.Disk]bool{}
		for range rapid.IntRange(1, 2).Draw(t, "how many") {
			i := rapid.IntRange(0, len(disks)-1).Draw(t, "gone")
			disks[i].State = rapid.SampledFrom([]State{Draining, Down}).Draw(t, "state")
			gone[disks[i].Number] = true
		}
		leaving := func(d extmap.Disk) bool { return gone[d] }
		l := Limits{Moves: rapid.IntRange(1, 30).Draw(t, "batch"), PerDisk: rapid.IntRange(1, 5).Draw(t, "per disk")}
		for {
			c, _ := New("host", present(m, disks))
			moves, err := c.Evacuate(m.Volume(id), leaving, l)
			if len(moves) == 0 {
				stays := false
				for d := range gone {
					stays = stays || m.Used(d) > 0
				}
				var impossible *Impossible
				if errors.As(err, &impossible) != stays {
					t.Fatalf("something stays is %v, and it says: %v", stays, err)
				}
				break
			}
			to := map[extmap.Disk]int{}
			for _, move := range moves {
				if !gone[move.From] || gone[move.To] {
					t.Fatalf("%+v while %v leave", move, gone)
				}
				to[move.To]++
			}
			if len(moves) > l.Moves {
				t.Fatalf("%d moves in a batch of %d", len(moves), l.Moves)
			}
			if m, err = carryOut(m, c, moves); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// A batch goes to many disks, and to one if it has to.
func TestEvacuateSpreads(t *testing.T) {
	id, p := extmap.VolumeID{1}, extmap.Policy{Replicas: 2}
	sets := slices.Repeat([]extmap.Disk{1, 2}, 40)
	for _, tc := range []struct {
		disks []Disk
		want  map[extmap.Disk]int
	}{
		// Disk 3 is empty, and 4 has as much as can be: it gets what is above the limit.
		{[]Disk{{Number: 1, Domain: "a", Extents: 99, State: Down}, {Number: 2, Domain: "b", Extents: 99}, {Number: 3, Domain: "a", Extents: 99}, {Number: 4, Domain: "c", Extents: 99, Used: 50}}, map[extmap.Disk]int{3: 30, 4: 10}},
		{[]Disk{{Number: 1, Domain: "a", Extents: 99, State: Down}, {Number: 2, Domain: "b", Extents: 99}, {Number: 3, Domain: "a", Extents: 99}}, map[extmap.Disk]int{3: 40}},
	} {
		c := cluster(t, tc.disks)
		m, _ := extmap.Map{}.Create(id, p, 40)
		m, err := m.Allocate(id, 0, sets, anywhere{})
		if err != nil {
			t.Fatal(err)
		}
		moves, err := c.Evacuate(m.Volume(id), func(d extmap.Disk) bool { return d == 1 }, Limits{Moves: 100, PerDisk: 30})
		got := map[extmap.Disk]int{}
		for _, move := range moves {
			got[move.To]++
		}
		if err != nil || !maps.Equal(got, tc.want) {
			t.Errorf("%v, want %v: %v", got, tc.want, err)
		}
	}
}

// anywhere is a Topology with a domain for each disk.
type anywhere struct{}

func (anywhere) Domain(d extmap.Disk) (uint32, bool) { return uint32(d), true }

// pool makes nodes with four disks each; every third node has disks twice as large.
func pool(nodes int) (disks []Disk) {
	for n := range nodes {
		for k := range 4 {
			room := uint32(15_000)
			if n%3 == 2 {
				room *= 2
			}
			disks = append(disks, Disk{Number: extmap.Disk(4*n + k + 1), Domain: fmt.Sprint("node", n), Extents: room})
		}
	}
	return disks
}

// imbalance is the fullest disk against the mean, by weight.
func imbalance(m extmap.Map, disks []Disk) float64 {
	used, room, most := 0.0, 0.0, 0.0
	for _, d := range disks {
		if d.State != Up {
			continue
		}
		used += float64(m.Used(d.Number))
		room += float64(d.Extents)
		most = max(most, float64(m.Used(d.Number))/float64(d.Extents))
	}
	return most / (used / room)
}

// best is the imbalance that domains make unavoidable: a node has at most one
// disk of an extent, however large it is.
func best(t *testing.T, m extmap.Map, disks []Disk) float64 {
	used, room, most := 0.0, 0.0, 0.0
	for i, fair := range cluster(t, present(m, disks)).fair(m, nil) {
		if disks[i].State == Up {
			used += fair
			room += float64(disks[i].Extents)
			most = max(most, fair/float64(disks[i].Extents))
		}
	}
	return most / (used / room)
}

const figureExtents = 8192

func figureMap(t *testing.T, p extmap.Policy, disks []Disk) extmap.Map {
	t.Helper()
	c := cluster(t, disks)
	sets, err := c.Place(p, figureExtents, 7)
	m, _ := extmap.Map{}.Create(extmap.VolumeID{1}, p, figureExtents)
	if err == nil {
		m, err = m.Allocate(extmap.VolumeID{1}, 0, sets, c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// The figures of docs/PLACEMENT.md.
func TestFigures(t *testing.T) {
	for _, f := range []struct {
		p     extmap.Policy
		nodes int
	}{{extmap.Policy{Replicas: 3}, 3}, {extmap.Policy{Replicas: 3}, 12}, {extmap.Policy{Data: 4, Parity: 2}, 12}, {extmap.Policy{Data: 8, Parity: 3}, 15}} {
		disks := pool(f.nodes)
		if f.nodes == 3 { // a copy on each, so no more than the smallest node has
			for i := range disks {
				disks[i].Extents = 15_000
			}
		}
		m := figureMap(t, f.p, disks)
		even := imbalance(m, disks)
		t.Logf("%s on %d nodes: max/mean %.4f of at best %.4f, disk 1 shares extents with %d disks", f.p, f.nodes, even, best(t, m, disks), partners(m, 1))
		if even > 1.02*best(t, m, disks) {
			t.Errorf("%s on %d nodes: the fullest disk has %.3f times the mean", f.p, f.nodes, even)
		}
		if f.nodes > f.p.Width() {
			joins(t, f.p, m, f.nodes)
			leaves(t, f.p, m, disks)
		}
	}
}

// partners counts the disks that have a common extent with d.
func partners(m extmap.Map, d extmap.Disk) int {
	seen := map[extmap.Disk]bool{}
	refs, _, _ := m.OnDisk(d, extmap.Ref{}, make([]extmap.Ref, 0, figureExtents))
	for _, r := range refs {
		e, _ := m.Volume(r.Volume).Extent(r.Extent)
		for _, o := range e.Disks {
			seen[o] = true
		}
	}
	return len(seen) - 1
}

// joins adds a node: what moves is what the newcomer should have.
func joins(t *testing.T, p extmap.Policy, m extmap.Map, nodes int) {
	t.Helper()
	disks := pool(nodes + 1)
	least := 0.0
	for i, fair := range cluster(t, present(m, disks)).fair(m, nil) {
		if int(disks[i].Number) > 4*nodes {
			least += fair
		}
	}
	moved := 0
	for {
		c := cluster(t, present(m, disks))
		moves := c.Balance(m).Moves(m.Volume(extmap.VolumeID{1}), Limits{1000, 300})
		if len(moves) == 0 {
			break
		}
		if moved += len(moves); float64(moved) > 2*least {
			t.Fatalf("%s: moved %d and goes on, the least is %.0f", p, moved, least)
		}
		var err error
		if m, err = carryOut(m, c, moves); err != nil {
			t.Fatal(err)
		}
	}
	if left := cluster(t, present(m, disks)).Balance(m).Left(); left > moved/50 {
		t.Errorf("%s: %d extents are left to move", p, left)
	}
	t.Logf("%s: node %d joins: %d moves, the least is %.0f (%+.2f%%), max/mean %.4f of at best %.4f", p, nodes+1, moved, least, 100*(float64(moved)/least-1), imbalance(m, disks), best(t, m, disks))
	if math.Abs(float64(moved)/least-1) > 0.1 || imbalance(m, disks) > 1.02*best(t, m, disks) {
		t.Errorf("%s: a node joins: %d moves, the least is %.0f, max/mean %.4f", p, moved, least, imbalance(m, disks))
	}
}

// leaves loses a node: what moves is what it had, and many take part.
func leaves(t *testing.T, p extmap.Policy, m extmap.Map, disks []Disk) {
	t.Helper()
	disks = slices.Clone(disks)
	least, moved := uint32(0), 0
	writes := map[extmap.Disk]int{}
	for i := range 4 {
		disks[i].State = Down
		least += m.Used(disks[i].Number)
	}
	for {
		c := cluster(t, present(m, disks))
		moves, err := c.Evacuate(m.Volume(extmap.VolumeID{1}), func(d extmap.Disk) bool { return d <= 4 }, Limits{1000, 100})
		if err != nil {
			t.Fatal(err)
		}
		if len(moves) == 0 {
			break
		}
		moved += len(moves)
		for _, move := range moves {
			writes[move.To]++
		}
		if m, err = carryOut(m, c, moves); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s: a node leaves: %d moves, the least is %d, written to %d disks of %d, max/mean %.4f of at best %.4f",
		p, moved, least, len(writes), len(disks)-4, imbalance(m, disks), best(t, m, disks))
	// Where large nodes have a part of nearly every extent, few can take more.
	if uint32(moved) != least || imbalance(m, disks) > 1.05*best(t, m, disks) || len(writes) < len(disks)/2 {
		t.Errorf("%s: a node leaves: %d moves, the least is %d, written to %d, max/mean %.4f",
			p, moved, least, len(writes), imbalance(m, disks))
	}
}

// What is on the move already is not planned again: a plan of a map in the
// middle of a batch goes on where it stands, and a Balance counts it as moved.
func TestPlansGoOn(t *testing.T) {
	disks, id := pool(6), extmap.VolumeID{1}
	m := figureMap(t, extmap.Policy{Replicas: 3}, disks)
	disks[0].State = Draining
	seen := map[uint32]bool{}
	for range 3 {
		c := cluster(t, present(m, disks))
		moves, err := c.Evacuate(m.Volume(id), func(d extmap.Disk) bool { return d == 1 }, Limits{100, 50})
		if err == nil {
			m, err = m.StartMoves(id, moves, c)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, move := range moves {
			if seen[move.Extent] {
				t.Fatalf("extent %d is planned twice", move.Extent)
			}
			seen[move.Extent] = true
		}
	}
	if len(seen) != 300 {
		t.Errorf("three batches of 100 have %d moves", len(seen))
	}
	more := append(slices.Clone(disks), Disk{Number: 99, Domain: "new", Extents: 15_000})
	for last := math.MaxInt; ; {
		c := cluster(t, present(m, more))
		b := c.Balance(m)
		moves := b.Moves(m.Volume(id), Limits{100, 100})
		if left := b.Left(); left >= last && len(moves) > 0 {
			t.Fatalf("%d are left after %d, and %d more begin", left, last, len(moves))
		} else if last = left; len(moves) == 0 {
			break
		}
		var err error
		if m, err = m.StartMoves(id, moves, c); err != nil {
			t.Fatal(err)
		}
	}
	if n := m.Used(99); float64(n) < 0.95*3*figureExtents*15_000/480_000 { // its share of all room
		t.Errorf("the new disk gets %d", n)
	}
}
