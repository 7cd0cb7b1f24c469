package scsi

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"blockd.dev/internal/clock"
)

// Target is a SCSI target device: its logical units, its ports, and the
// nexuses through which initiators reach them. All methods may be called from
// any goroutine.
type Target struct {
	deps Deps
	conf atomic.Pointer[snapshot]

	mu struct {
		sync.Mutex
		units    map[UnitID]*LU
		nexuses  map[NexusID]*Nexus
		departed departed
	}
}

// snapshot is an immutable configuration.
type snapshot struct {
	TargetConfig
	groups []GroupConfig // sorted; every group that a port is in
	// changed has statusByTarget for groups whose state a Configure changed.
	changed map[uint16]byte
}

// NewTarget makes a Target. It fails when cfg does not pass Validate or the
// reservations of a unit can't be loaded.
func NewTarget(cfg TargetConfig, deps Deps) (*Target, error) {
	if deps.Arena == nil {
		return nil, errors.New("scsi: NewTarget needs an arena")
	}
	if deps.Clock == nil {
		deps.Clock = clock.Boot{}
	}
	t := &Target{deps: deps}
	t.mu.units = make(map[UnitID]*LU)
	t.mu.nexuses = make(map[NexusID]*Nexus)
	if err := t.Configure(cfg); err != nil {
		return nil, err
	}
	return t, nil
}

// Configure replaces the configuration and tells hosts of the differences by
// unit attentions. On error the old configuration stays.
func (t *Target) Configure(cfg TargetConfig) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	next := newSnapshot(cfg)
	t.mu.Lock()
	var lost []*itl
	defer func() {
		t.mu.Unlock()
		for _, i := range lost {
			i.drop(abortStatus) // the session lives on and wants an answer
		}
	}()
	old := t.conf.Load()
	if old != nil {
		next.noteChanges(old)
	}

	units := make(map[UnitID]*LU, len(cfg.Units))
	var opened, renamed, protected, moved []*LU
	for i := range next.Units {
		u := next.Units[i]
		if lu := t.mu.units[u.ID]; lu != nil && lu.device == u.Device {
			was := lu.conf.Load()
			if was.Name != u.Name || was.Serial != u.Serial || was.Rotational != u.Rotational {
				renamed = append(renamed, lu)
			}
			if was.Protect != u.Protect {
				protected = append(protected, lu)
			}
			if was.Access != u.Access {
				moved = append(moved, lu)
			}
			units[u.ID] = lu
			continue
		}
		lu, err := t.openUnit(u)
		if err != nil {
			for _, o := range opened {
				o.close()
			}
			return fmt.Errorf("scsi: unit %x (%s): %w", u.ID, u.Name, err)
		}
		opened = append(opened, lu)
		units[u.ID] = lu
	}
	// Nothing fails from here on.
	for i := range next.Units {
		units[next.Units[i].ID].conf.Store(&next.Units[i])
	}
	gone := t.mu.units
	t.mu.units = units
	t.conf.Store(next)
	for _, n := range t.mu.nexuses {
		lost = append(lost, n.remapLocked(next, units)...)
	}
	for id, lu := range gone {
		if units[id] != lu {
			lu.close()
		}
	}
	identityChanged := old != nil && (old.Vendor != next.Vendor || old.Product != next.Product ||
		old.Revision != next.Revision || old.Name != next.Name || !slices.Equal(old.Ports, next.Ports))
	if identityChanged {
		renamed = slices.Collect(maps.Values(units))
	}
	for _, lu := range renamed {
		lu.raise(uaInquiryChanged, nil)
	}
	for _, lu := range protected {
		lu.raise(uaModeChanged, nil) // WP in the mode parameter header
	}
	for _, lu := range moved {
		lu.moved.Store(true)
	}
	if old != nil && !slices.Equal(old.groups, next.groups) {
		moved = slices.Collect(maps.Values(units))
	}
	for _, lu := range moved {
		lu.raise(uaAccessStateChanged, nil)
	}
	return nil
}

func newSnapshot(cfg TargetConfig) *snapshot {
	s := &snapshot{TargetConfig: cfg}
	s.Units = slices.Clone(cfg.Units)
	s.AnyView = maps.Clone(cfg.AnyView)
	s.Views = make(map[string]View, len(cfg.Views))
	for who, v := range cfg.Views {
		s.Views[who] = maps.Clone(v)
	}
	s.Ports = slices.Clone(cfg.Ports)
	if len(s.Ports) == 0 {
		s.Ports = []PortConfig{{RelativeID: 1, Group: 1}}
	}
	s.Groups = nil
	s.Vendor = cmp.Or(cfg.Vendor, "blockd")
	s.Product = cmp.Or(cfg.Product, "blockd volume")
	s.Revision = cmp.Or(cfg.Revision, "1")
	slices.SortFunc(s.Ports, func(a, b PortConfig) int { return cmp.Compare(a.RelativeID, b.RelativeID) })
	for _, p := range s.Ports {
		if slices.ContainsFunc(s.groups, func(g GroupConfig) bool { return g.ID == p.Group }) {
			continue
		}
		g := GroupConfig{ID: p.Group}
		if i := slices.IndexFunc(cfg.Groups, func(g GroupConfig) bool { return g.ID == p.Group }); i >= 0 {
			g = cfg.Groups[i]
		}
		s.groups = append(s.groups, g)
	}
	slices.SortFunc(s.groups, func(a, b GroupConfig) int { return cmp.Compare(a.ID, b.ID) })
	return s
}

// noteChanges records which groups have another state than in old, or had one
// before.
func (s *snapshot) noteChanges(old *snapshot) {
	s.changed = make(map[uint16]byte)
	for _, g := range s.groups {
		at := slices.IndexFunc(old.groups, func(o GroupConfig) bool { return o.ID == g.ID })
		switch {
		case at < 0 || old.groups[at] != g:
			s.changed[g.ID] = statusByTarget
		default:
			s.changed[g.ID] = old.changed[g.ID]
		}
	}
}

// groupOf is the group of a port, or nil for an unknown port.
func (s *snapshot) groupOf(port uint16) *GroupConfig {
	for i := range s.Ports {
		if s.Ports[i].RelativeID == port {
			for j := range s.groups {
				if s.groups[j].ID == s.Ports[i].Group {
					return &s.groups[j]
				}
			}
		}
	}
	return nil
}

// Close detaches every nexus and lets go of every unit: watches end,
// reservations close.
func (t *Target) Close() {
	t.mu.Lock()
	nexuses := slices.Collect(maps.Values(t.mu.nexuses))
	t.mu.Unlock()
	for _, n := range nexuses {
		n.Detach()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, lu := range t.mu.units {
		lu.close()
	}
	clear(t.mu.units)
}

// event tells the owner.
func (t *Target) event(e Event) {
	if t.deps.Events != nil {
		t.deps.Events(e)
	}
}

// departed remembers the nexuses that were lost last, to greet them with
// I_T NEXUS LOSS OCCURRED when they come back. It is a ring: initiators with
// random ISIDs must not fill memory.
type departed struct {
	ids  [departedMax]NexusID
	next int
	at   map[NexusID]int
}

const departedMax = 1024

func (d *departed) add(id NexusID) {
	if d.at == nil {
		d.at = make(map[NexusID]int)
	}
	if _, ok := d.at[id]; ok {
		return
	}
	if old := d.ids[d.next]; d.at[old] == d.next {
		delete(d.at, old)
	}
	d.ids[d.next] = id
	d.at[id] = d.next
	d.next = (d.next + 1) % departedMax
}

func (d *departed) has(id NexusID) bool { _, ok := d.at[id]; return ok }
