package group

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Member is what the group itself knows of a node. Labels and roles are the FSM's.
type Member struct {
	ID         string `json:"id"`
	Address    string `json:"address"`     // of its control port, HOST:PORT
	MaxVersion uint32 `json:"max_version"` // of commands that its binary understands
}

func (n Member) encode() []byte {
	b, err := json.Marshal(n)
	if err != nil {
		panic("group: " + err.Error()) // it has nothing that JSON lacks
	}
	return b
}

// meta is the group's own replicated state. It is changed by apply alone.
type meta struct {
	Cluster     string            `json:"cluster"`
	Incarnation uint32            `json:"incarnation"`
	Gate        uint32            `json:"gate"` // commands up to this version may enter the log
	Members     map[string]Member `json:"members"`
	Removed     map[string]bool   `json:"removed"` // ids that may not come back
	Leader      string            `json:"leader"`  // who took office last
	LeaderTerm  uint64            `json:"leader_term"`
	Requests    requests          `json:"requests"`
}

func newMeta(cluster string, incarnation uint32) meta {
	return meta{Cluster: cluster, Incarnation: incarnation, Gate: 1, Members: map[string]Member{}, Removed: map[string]bool{}}
}

// order is one of the group's own commands; one field is set. All are of
// version 1: a new one takes a higher version, as those of an FSM do.
type order struct {
	TakeOffice *Member    `json:"take_office,omitempty"` // the first entry of a leader
	Announce   *Member    `json:"announce,omitempty"`    // a member says what it is now
	Admit      *Member    `json:"admit,omitempty"`       // a node becomes a member
	Remove     *orderNode `json:"remove,omitempty"`      // a member is one no more, for ever
	Open       *orderOpen `json:"open,omitempty"`        // the gate opens
	Mark       *struct{}  `json:"mark,omitempty"`        // every member computes its hash here
	Hash       *orderHash `json:"hash,omitempty"`        // the leader's hash at a mark
}

type orderNode struct {
	ID string `json:"id"`
}

type orderOpen struct {
	Version uint32 `json:"version"`
}

type orderHash struct {
	Mark uint64 `json:"mark"` // index of the mark
	Hash []byte `json:"hash"`
}

func (o *order) encode() []byte {
	b, err := json.Marshal(o)
	if err != nil {
		panic("group: " + err.Error())
	}
	return b
}

func decodeOrder(b []byte) (order, error) {
	var o order
	if err := json.Unmarshal(b, &o); err != nil {
		return order{}, err
	}
	set := 0
	for _, is := range []bool{o.TakeOffice != nil, o.Announce != nil, o.Admit != nil, o.Remove != nil, o.Open != nil, o.Mark != nil, o.Hash != nil} {
		if is {
			set++
		}
	}
	if set != 1 {
		return order{}, fmt.Errorf("%w: %d orders in one", errEnvelope, set)
	}
	return o, nil
}

// apply carries out an order at index in term. Mark and Hash change nothing here.
func (m *meta) apply(term uint64, o *order) error {
	switch {
	case o.TakeOffice != nil:
		if err := m.put(o.TakeOffice, true); err != nil {
			return err
		}
		m.Leader, m.LeaderTerm = o.TakeOffice.ID, term
		return nil
	case o.Announce != nil:
		return m.put(o.Announce, false)
	case o.Admit != nil:
		return m.put(o.Admit, true)
	case o.Remove != nil:
		id := o.Remove.ID
		if _, ok := m.Members[id]; !ok {
			if m.Removed[id] {
				return nil // it was done before
			}
			return fmt.Errorf("%w: node %q is not a member", ErrRefused, id)
		}
		if len(m.Members) == 1 {
			return fmt.Errorf("%w: node %q is the only member; to give the cluster up, delete its data folder", ErrRefused, id)
		}
		delete(m.Members, id)
		m.Removed[id] = true
		return nil
	case o.Open != nil:
		for _, id := range slices.Sorted(maps.Keys(m.Members)) {
			if have := m.Members[id].MaxVersion; have < o.Open.Version {
				return fmt.Errorf("%w: node %q understands %d, not %d", ErrGate, id, have, o.Open.Version)
			}
		}
		m.Gate = max(m.Gate, o.Open.Version)
	}
	return nil
}

// put adds or changes a member.
func (m *meta) put(n *Member, admit bool) error {
	_, is := m.Members[n.ID]
	switch {
	case n.ID == "" || n.Address == "":
		return fmt.Errorf("%w: a member has an id and an address", ErrRefused)
	case m.Removed[n.ID]:
		return fmt.Errorf("%w: node %q", ErrRemoved, n.ID)
	case n.MaxVersion < m.Gate:
		return fmt.Errorf("%w: node %q understands version %d of commands, and %d is in use", ErrTooOld, n.ID, n.MaxVersion, m.Gate)
	case !is && !admit:
		return fmt.Errorf("%w: node %q is not a member", ErrRefused, n.ID)
	}
	m.Members[n.ID] = *n
	return nil
}

// openable is the version that the gate could open to.
func (m *meta) openable() uint32 {
	v := ^uint32(0)
	for _, n := range m.Members {
		v = min(v, n.MaxVersion)
	}
	if len(m.Members) == 0 {
		return m.Gate
	}
	return max(v, m.Gate)
}

// frozen returns a copy that apply does not change.
func (m *meta) frozen() meta {
	c := *m
	c.Members, c.Removed, c.Requests = maps.Clone(m.Members), maps.Clone(m.Removed), m.Requests.frozen()
	return c
}

// reborn is the state as a new incarnation begins with it: nobody is a member,
// and who was removed stays so.
func (m *meta) reborn() meta {
	c := m.frozen()
	c.Incarnation++
	c.Members, c.Leader, c.LeaderTerm = map[string]Member{}, "", 0
	return c
}

// encode gives equal bytes for equal states: encoding/json sorts keys.
func (m *meta) encode() []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic("group: " + err.Error())
	}
	return b
}

func decodeMeta(b []byte) (meta, error) {
	m := newMeta("", 0)
	if err := json.Unmarshal(b, &m); err != nil {
		return meta{}, fmt.Errorf("the group's own state: %w", err)
	}
	if m.Gate == 0 || m.Incarnation == 0 || m.Members == nil || m.Removed == nil {
		return meta{}, fmt.Errorf("the group's own state: %w", errEnvelope)
	}
	m.Requests.index()
	return m, nil
}
