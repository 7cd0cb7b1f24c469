package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"blockd.dev/raftmeta/extmap"
)

// State says what a disk may be used for.
type State uint8

// The states of a disk.
const (
	Up       State = iota // takes new extents
	Draining              // is read from, takes nothing new
	Down                  // can't be reached; its extents may be rebuilt elsewhere
)

// String is the word for it.
func (s State) String() string { return [...]string{"up", "draining", "down"}[min(s, Down)] }

// Disk is a disk as placement sees it.
type Disk struct {
	Number extmap.Disk
	// Domain names what it shares its fate with, at the level of the pool's
	// policy: the host, the rack or the zone, or the disk itself.
	Domain string
	// Extents is how many it has room for in all.
	Extents uint32
	// Weight is its share of new extents against others; 0 means Extents.
	Weight uint32
	State  State
	Used   uint32 // extents it keeps now: extmap.Map.Used
}

// Cluster is the disks of one pool.
type Cluster struct {
	disks   []Disk // by number
	domain  []uint32
	byNum   map[extmap.Disk]int
	domains []string
	level   string
}

// New makes a Cluster. level is the word for a domain in explanations: host,
// rack, zone or disk. Numbers must be distinct and not 0.
func New(level string, disks []Disk) (*Cluster, error) {
	c := &Cluster{disks: slices.Clone(disks), byNum: map[extmap.Disk]int{}, level: level}
	slices.SortFunc(c.disks, func(a, b Disk) int { return cmp.Compare(a.Number, b.Number) })
	names := map[string]uint32{}
	for i := range c.disks {
		d := &c.disks[i]
		if _, twice := c.byNum[d.Number]; twice || d.Number == 0 {
			return nil, fmt.Errorf("placement: disk number %d is 0 or is used twice", d.Number)
		}
		if d.Weight == 0 {
			d.Weight = max(1, d.Extents)
		}
		if _, ok := names[d.Domain]; !ok {
			names[d.Domain] = uint32(len(names))
			c.domains = append(c.domains, d.Domain)
		}
		c.byNum[d.Number] = i
		c.domain = append(c.domain, names[d.Domain])
	}
	return c, nil
}

// Domain makes a Cluster an extmap.Topology: only disks that are up may be placed on.
func (c *Cluster) Domain(d extmap.Disk) (domain uint32, ok bool) {
	i, ok := c.byNum[d]
	if !ok {
		return 0, false
	}
	return c.domain[i], c.disks[i].State == Up
}

// Used returns how many extents a disk keeps, with those that were placed.
func (c *Cluster) Used(d extmap.Disk) uint32 { return c.disks[c.byNum[d]].Used }

// Place chooses the disks of n extents, one set after the other, and counts
// them as used. When only some can be placed, it returns those and an
// *Impossible.
func (c *Cluster) Place(p extmap.Policy, n int, seed uint64) ([]extmap.Disk, error) {
	sets := make([]extmap.Disk, 0, n*p.Width())
	taken := make([]bool, len(c.domains))
	for e := range n {
		clear(taken)
		start := len(sets)
		for range p.Width() {
			i := c.leastFull(func(i int) bool { return !taken[c.domain[i]] }, mix(seed+uint64(e)))
			if i < 0 {
				for _, d := range sets[start:] {
					c.disks[c.byNum[d]].Used--
				}
				return sets[:start], c.impossible(p, e)
			}
			c.disks[i].Used++
			taken[c.domain[i]] = true
			sets = append(sets, c.disks[i].Number)
		}
		shuffle(sets[start:], mix(seed^uint64(e)))
	}
	return sets, nil
}

// shuffle makes any disk of a set as likely to be the first.
func shuffle(set []extmap.Disk, h uint64) {
	for i := len(set) - 1; i > 0; i-- {
		h = mix(h)
		j := int(h % uint64(i+1))
		set[i], set[j] = set[j], set[i]
	}
}

// leastFull returns the index of the disk with room that is up, allowed, and
// least full by weight, or -1.
func (c *Cluster) leastFull(allowed func(i int) bool, h uint64) int {
	best, bestTie := -1, uint64(0)
	for i := range c.disks {
		d := &c.disks[i]
		if d.State != Up || d.Used >= d.Extents || !allowed(i) {
			continue
		}
		tie := mix(h ^ uint64(d.Number)<<32)
		if best >= 0 {
			b := &c.disks[best]
			mine, its := uint64(d.Used+1)*uint64(b.Weight), uint64(b.Used+1)*uint64(d.Weight)
			if mine > its || mine == its && tie >= bestTie {
				continue
			}
		}
		best, bestTie = i, tie
	}
	return best
}

// mix is the finisher of splitmix64: one that spreads every bit.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Impossible says why a policy can't be met.
type Impossible struct {
	Placed int // how many extents were placed before
	Reason string
}

// Error is the reason in words.
func (e *Impossible) Error() string { return "placement: " + e.Reason }

// Explain returns an *Impossible when not one extent of the policy can be
// placed, and otherwise nil. It places nothing.
func (c *Cluster) Explain(p extmap.Policy) error {
	trial := *c
	trial.disks = slices.Clone(c.disks)
	_, err := trial.Place(p, 1, 0)
	return err
}

func (c *Cluster) impossible(p extmap.Policy, placed int) error {
	usable := make([]int, len(c.domains))
	var out []string
	for i := range c.disks {
		d := &c.disks[i]
		switch {
		case d.State != Up:
			out = append(out, fmt.Sprintf("disk %d is %s", d.Number, d.State))
		case d.Used >= d.Extents:
			out = append(out, fmt.Sprintf("disk %d is full", d.Number))
		default:
			usable[c.domain[i]]++
		}
	}
	var with []string
	for k, n := range usable {
		if n > 0 {
			with = append(with, c.domains[k])
		}
	}
	slices.Sort(with)
	have := "none has"
	if len(with) > 0 {
		have = fmt.Sprintf("%d of %d have: %s", len(with), len(c.domains), some(with))
	}
	why := ""
	if len(out) > 0 {
		why = "; " + some(out)
	}
	return &Impossible{placed, fmt.Sprintf("%s need %d different %ss with a disk that is up and has room, and %s%s. Add disks or %ss, or use a pool of a smaller policy",
		p, p.Width(), c.level, have, why, c.level)}
}

// some lists the first few.
func some(words []string) string {
	if len(words) > 8 {
		return fmt.Sprintf("%s and %d more", strings.Join(words[:8], ", "), len(words)-8)
	}
	return strings.Join(words, ", ")
}
