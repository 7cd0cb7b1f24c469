package reservation

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// accessTable is SPC-5 "SPC commands that are allowed in the presence of
// various reservations" and its like in SBC-4 and NVMe, for commands that read
// and commands that write, written out: [type][who] is what is allowed.
var accessTable = map[Type]map[string]string{
	TypeNone:                           {"holder": "rw", "registrant": "rw", "stranger": "rw"},
	TypeWriteExclusive:                 {"holder": "rw", "registrant": "r", "stranger": "r"},
	TypeExclusiveAccess:                {"holder": "rw", "registrant": "", "stranger": ""},
	TypeWriteExclusiveRegistrantsOnly:  {"holder": "rw", "registrant": "rw", "stranger": "r"},
	TypeExclusiveAccessRegistrantsOnly: {"holder": "rw", "registrant": "rw", "stranger": ""},
	TypeWriteExclusiveAllRegistrants:   {"holder": "rw", "registrant": "rw", "stranger": "r"},
	TypeExclusiveAccessAllRegistrants:  {"holder": "rw", "registrant": "rw", "stranger": ""},
}

// oracle is a second, naive table: maps and the rules of the standard one
// after the other. It answers one question, who may do what.
type oracle struct {
	keys   map[Identity]uint64
	typ    Type
	holder Identity
	legacy Identity
}

func (o *oracle) may(id Identity, write bool) bool {
	if o.legacy != (Identity{}) {
		return id == o.legacy
	}
	who := "stranger"
	if _, ok := o.keys[id]; ok {
		who = "registrant"
	}
	if o.typ != TypeNone && id == o.holder {
		who = "holder"
	}
	what := "r"
	if write {
		what = "w"
	}
	return bytes.Contains([]byte(accessTable[o.typ][who]), []byte(what))
}

func (o *oracle) gone(id Identity) {
	delete(o.keys, id)
	if o.typ.AllRegistrants() {
		if len(o.keys) == 0 {
			o.typ = TypeNone
		}
	} else if o.holder == id {
		o.typ, o.holder = TypeNone, Identity{}
	}
}

func (o *oracle) do(c *Command) bool {
	id := c.From
	key, registered := o.keys[id]
	holds := o.typ != TypeNone && (o.holder == id || o.typ.AllRegistrants() && registered)
	switch c.Op {
	case OpLegacyReset:
		o.legacy = Identity{}
		return true
	case OpNexusLoss:
		if o.legacy == id {
			o.legacy = Identity{}
		}
		return true
	case OpLegacyReserve, OpLegacyRelease:
		shared := o.typ != TypeNone && o.typ != TypeWriteExclusive && o.typ != TypeExclusiveAccess
		if holds || shared && registered {
			return true
		}
		if len(o.keys) > 0 {
			return false
		}
		if c.Op == OpLegacyRelease {
			if o.legacy == id {
				o.legacy = Identity{}
			}
			return true
		}
		if o.legacy != (Identity{}) && o.legacy != id {
			return false
		}
		o.legacy = id
		return true
	}
	if o.legacy != (Identity{}) {
		return false
	}
	switch c.Op {
	case OpRegister, OpRegisterIgnore:
		if c.Op == OpRegister && key != c.Key {
			return false
		}
		if c.NewKey != 0 {
			o.keys[id] = c.NewKey
		} else if registered {
			o.gone(id)
		}
		return true
	case OpHostRegister:
		if c.NewKey == 0 || registered && key != c.NewKey {
			return false
		}
		o.keys[id] = c.NewKey
		return true
	case OpHostReplace:
		if c.NewKey == 0 || !c.IgnoreKey && (!registered || key != c.Key) {
			return false
		}
		o.keys[id] = c.NewKey
		return true
	case OpHostUnregister:
		if !registered || !c.IgnoreKey && key != c.Key {
			return false
		}
		o.gone(id)
		return true
	}
	if !registered || key != c.Key {
		return false
	}
	take := func() {
		o.typ, o.holder = c.Type, id
		if c.Type.AllRegistrants() {
			o.holder = Identity{}
		}
	}
	switch c.Op {
	case OpReserve:
		if o.typ == TypeNone {
			take()
			return true
		}
		return holds && o.typ == c.Type
	case OpRelease:
		if !holds {
			return true
		}
		if o.typ != c.Type {
			return false
		}
		o.typ, o.holder = TypeNone, Identity{}
		return true
	case OpClear:
		clear(o.keys)
		o.typ, o.holder = TypeNone, Identity{}
		return true
	case OpMove:
		if o.typ == TypeNone || o.holder != id || c.NewKey == 0 || c.To == id {
			return false
		}
		o.keys[c.To] = c.NewKey
		o.holder = c.To
		if c.Unregister {
			delete(o.keys, id)
		}
		return true
	case OpPreempt, OpPreemptAndAbort:
		if c.NewKey == 0 && !o.typ.AllRegistrants() {
			return false
		}
		wins := c.NewKey == 0 || !o.typ.AllRegistrants() && o.typ != TypeNone && o.keys[o.holder] == c.NewKey
		victims := 0
		for other, k := range maps.Clone(o.keys) {
			if (c.NewKey == 0 || k == c.NewKey) && !(wins && other == id) {
				victims++
				if wins {
					delete(o.keys, other)
				} else {
					o.gone(other)
				}
			}
		}
		if wins {
			take()
		}
		return wins || victims > 0
	}
	return false
}

var parties = []Identity{party("A"), party("A2"), party("B"), party("C"), party("n"), party("m")}

func genCommand(t *rapid.T) *Command {
	who := rapid.SampledFrom(parties)
	key := rapid.Uint64Range(0, 3)
	return &Command{
		Op:         Op(rapid.Uint8Range(uint8(OpRegister), uint8(OpNexusLoss)).Draw(t, "op")),
		From:       who.Draw(t, "from"),
		Key:        key.Draw(t, "key"),
		NewKey:     key.Draw(t, "new"),
		Type:       rapid.SampledFrom(nvmeTypes[1:]).Draw(t, "type"),
		Persist:    Persist(rapid.Uint8Range(0, 2).Draw(t, "persist")),
		To:         who.Draw(t, "to"),
		Unregister: rapid.Bool().Draw(t, "unreg"),
		IgnoreKey:  rapid.Bool().Draw(t, "iekey"),
	}
}

// TestAccessMatchesOracle runs random commands against the oracle: after each,
// every party may do exactly what the standard's table says, through a Volume
// as frontends ask it; the state keeps its invariants and survives encoding;
// what a power loss leaves grants no more than was registered; no command
// changes the state it started from.
func TestAccessMatchesOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := &oracle{keys: map[Identity]uint64{}}
		s := empty
		v := NewVolume(nil)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			c := genCommand(t)
			// A present key makes most commands mean something.
			if k, ok := o.keys[c.From]; ok && rapid.IntRange(0, 3).Draw(t, "right key") > 0 {
				c.Key = k
			}
			before, err := s.AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			next, res := s.Apply(c)
			if after, _ := s.AppendBinary(nil); !bytes.Equal(before, after) {
				t.Fatalf("%v changed the state it was applied to", c.Op)
			}
			if ok := o.do(c); ok != (res.Status == StatusOK) {
				t.Fatalf("%v from %v: %v, the oracle says %v; state %s", c.Op, c.From, res.Status, ok, describe(s))
			}
			if n := next.Check(); n != 0 {
				t.Fatalf("%v breaks invariant %d: %s", c.Op, n, describe(next))
			}
			for _, e := range res.Events {
				if e.To == c.From {
					t.Fatalf("%v: the sender gets a notice of its own command", c.Op)
				}
				if s.Find(e.To) < 0 {
					t.Fatalf("%v: a notice for %v, who was not registered", c.Op, e.To)
				}
				if (e.Notice == RegistrationsPreempted) != (next.Find(e.To) < 0 && e.Notice != ReservationsPreempted) {
					t.Fatalf("%v: wrong notice %#x", c.Op, e.Notice)
				}
			}
			if slices.Contains(res.Aborts, c.From) {
				t.Fatalf("%v aborts the sender", c.Op)
			}
			b, err := next.AppendBinary(nil)
			if err != nil {
				t.Fatal(err)
			}
			back, err := DecodeState(b)
			if err != nil || !back.Equal(next) {
				t.Fatalf("encoding of %s: %v", describe(next), err)
			}
			s = back
			v.Publish(&Change{State: s})
			for _, id := range append(parties, party("Z")) {
				for write, class := range map[bool]Access{false: AccessRead, true: AccessWrite} {
					if got, want := v.Allows(&id, class), o.may(id, write); got != want {
						t.Fatalf("%v, write %v: allowed %v, the table says %v; state %s", id, write, got, want, describe(s))
					}
				}
				if !v.Allows(&id, AccessAny) {
					t.Fatal("AccessAny was refused")
				}
				if got, want := v.Allows(&id, AccessQuery), o.legacy.IsZero() || o.legacy == id; got != want {
					t.Fatalf("query by %v allowed: %v", id, got)
				}
			}
			if left := s.AfterPowerLoss(); left.Check() != 0 || !left.Legacy.IsZero() {
				t.Fatalf("power loss leaves %s", describe(left))
			}
		}
	})
}

// TestOracleNotices proves the harness: an oracle with a wrong table fails.
func TestOracleNotices(t *testing.T) {
	o := &oracle{keys: map[Identity]uint64{party("A"): 1}, typ: TypeWriteExclusiveAllRegistrants}
	if o.may(party("B"), true) || !o.may(party("A"), true) || !o.may(party("B"), false) {
		t.Fatal("unregistered parties must not write under write exclusive - all registrants")
	}
}
