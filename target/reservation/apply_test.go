package reservation

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// The scenarios in testdata read like a conversation. Parties are written as
// a letter and an optional target port: A is the iSCSI initiator port A through
// port 1, A2 the same through port 2; n and m are NVMe hosts. Keys are
// hexadecimal.

func party(s string) Identity {
	if s == "n" || s == "m" {
		return NVMe("nqn.2014-08.org.example:"+s, [16]byte{15: s[0]})
	}
	port := uint16(1)
	if len(s) > 1 {
		p, err := strconv.Atoi(s[1:])
		if err != nil {
			panic("bad party " + s)
		}
		port = uint16(p)
	}
	return ISCSI("iqn.2026-01.example:"+s[:1], [6]byte{0x80, 5: s[0]}, port)
}

func nameOf(id Identity) string {
	name := id.Name[strings.LastIndexByte(id.Name, ':')+1:]
	if id.Protocol == ProtocolISCSI && id.Port != 1 {
		name += strconv.Itoa(int(id.Port))
	}
	return name
}

var typeNames = map[string]Type{
	"we": TypeWriteExclusive, "ea": TypeExclusiveAccess,
	"wero": TypeWriteExclusiveRegistrantsOnly, "earo": TypeExclusiveAccessRegistrantsOnly,
	"wear": TypeWriteExclusiveAllRegistrants, "eaar": TypeExclusiveAccessAllRegistrants,
	"bad": 2,
}

var opNames = map[string]Op{
	"register": OpRegister, "ignore": OpRegisterIgnore, "move": OpMove, "reserve": OpReserve,
	"release": OpRelease, "clear": OpClear, "preempt": OpPreempt, "preempt-abort": OpPreemptAndAbort,
	"host-register": OpHostRegister, "host-unregister": OpHostUnregister, "host-replace": OpHostReplace,
	"legacy-reserve": OpLegacyReserve, "legacy-release": OpLegacyRelease,
	"legacy-reset": OpLegacyReset, "nexus-loss": OpNexusLoss,
}

// command parses "PARTY OP [key=K] [new=K] [type=T] [aptpl] [no-aptpl]
// [ports=1,2] [also=B,C] [to=B] [unreg] [iekey]".
func command(t *testing.T, line string) *Command {
	t.Helper()
	f := strings.Fields(line)
	c := &Command{From: party(f[0])}
	var ok bool
	if c.Op, ok = opNames[f[1]]; !ok {
		t.Fatalf("unknown operation in %q", line)
	}
	hex := func(s string) uint64 {
		n, err := strconv.ParseUint(s, 16, 64)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		return n
	}
	for _, a := range f[2:] {
		k, v, _ := strings.Cut(a, "=")
		switch k {
		case "key":
			c.Key = hex(v)
		case "new":
			c.NewKey = hex(v)
		case "type":
			if c.Type, ok = typeNames[v]; !ok {
				t.Fatalf("unknown type in %q", line)
			}
		case "aptpl":
			c.Persist = PersistOn
		case "no-aptpl":
			c.Persist = PersistOff
		case "ports":
			for _, p := range strings.Split(v, ",") {
				c.Ports = append(c.Ports, uint16(hex(p)))
			}
		case "also":
			c.SpecifyInitiators = true
			for _, p := range strings.Split(v, ",") {
				if p != "" {
					c.Initiators = append(c.Initiators, party(p))
				}
			}
		case "to":
			c.To = party(v)
		case "unreg":
			c.Unregister = true
		case "iekey":
			c.IgnoreKey = true
		default:
			t.Fatalf("unknown argument %q in %q", a, line)
		}
	}
	return c
}

func describe(s *State) string {
	var b strings.Builder
	fmt.Fprintf(&b, "gen %d:", s.Generation)
	for _, r := range s.Registrants {
		fmt.Fprintf(&b, " %s=%x", nameOf(r.ID), r.Key)
		if s.Holds(r.ID) {
			b.WriteByte('*')
		}
	}
	if s.Type != TypeNone {
		fmt.Fprintf(&b, " (%s)", s.Type)
	}
	if !s.Legacy.IsZero() {
		fmt.Fprintf(&b, " legacy %s", nameOf(s.Legacy))
	}
	if s.Persist {
		b.WriteString(" aptpl")
	}
	return b.String()
}

// TestScenarios runs the conversations in testdata: the status of each
// command, the notices and aborts it causes, and the state after the last.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		s := empty
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var out strings.Builder
			switch d.Cmd {
			case "new":
				s = empty
			case "continue":
			case "power-loss":
				s = s.AfterPowerLoss()
			default:
				d.Fatalf(t, "unknown command %s", d.Cmd)
			}
			for _, line := range strings.Split(d.Input, "\n") {
				if line == "" {
					continue
				}
				next, res := s.Apply(command(t, line))
				fmt.Fprintf(&out, "%s: %s", strings.Join(strings.Fields(line)[:2], " "), res.Status)
				for _, e := range res.Events {
					fmt.Fprintf(&out, "; %s gets 2A/%02X", nameOf(e.To), uint8(e.Notice))
				}
				for _, id := range res.Aborts {
					fmt.Fprintf(&out, "; abort %s", nameOf(id))
				}
				out.WriteByte('\n')
				if res.Status != StatusOK && (next != s || res.Events != nil || res.Aborts != nil) {
					d.Fatalf(t, "%s: failed but had effects", line)
				}
				if n := next.Check(); n != 0 {
					d.Fatalf(t, "%s: breaks invariant %d", line, n)
				}
				s = next
			}
			out.WriteString(describe(s) + "\n")
			return out.String()
		})
	})
}

// TestTableIsBounded: hosts can't take memory without bound by registering.
func TestTableIsBounded(t *testing.T) {
	s := empty
	for i := range MaxRegistrants {
		var res Result
		s, res = s.Apply(&Command{Op: OpRegister, From: ISCSI("iqn.x", [6]byte{4: byte(i >> 8), 5: byte(i)}, 1), NewKey: 1})
		if res.Status != StatusOK {
			t.Fatalf("registrant %d: %v", i, res.Status)
		}
	}
	next, res := s.Apply(&Command{Op: OpRegister, From: ISCSI("iqn.y", [6]byte{}, 1), NewKey: 1})
	if res.Status != StatusNoResources || next != s {
		t.Fatalf("one too many: %v", res.Status)
	}
	// Changing a key needs no room.
	if _, res = s.Apply(&Command{Op: OpRegisterIgnore, From: s.Registrants[7].ID, NewKey: 9}); res.Status != StatusOK {
		t.Fatalf("new key in a full table: %v", res.Status)
	}
}

// TestUnknownOperationIsRefused: nothing succeeds by default.
func TestUnknownOperationIsRefused(t *testing.T) {
	for _, c := range []*Command{
		{Op: 0, From: party("A")}, {Op: OpNexusLoss + 1, From: party("A")},
		{Op: OpRegister, NewKey: 1}, {Op: OpRegister, NewKey: 1, From: Identity{Protocol: 9, Name: "x"}},
	} {
		s, _ := empty.Apply(&Command{Op: OpRegister, From: party("A"), NewKey: 1})
		if next, res := s.Apply(c); res.Status != StatusInvalidCommand || next != s {
			t.Errorf("%v from %v: %v", c.Op, c.From, res.Status)
		}
	}
}

// TestTypeNumbers pins both protocols' encodings (SPC-5 "Persistent
// reservation type", NVMe Base 2.0 "Reservation Type Encoding").
func TestTypeNumbers(t *testing.T) {
	for rtype, want := range map[uint8]Type{1: 1, 2: 3, 3: 5, 4: 6, 5: 7, 6: 8} {
		got, ok := TypeFromNVMe(rtype)
		if !ok || got != want || got.NVMe() != rtype || !got.Valid() {
			t.Errorf("RTYPE %d is type %d (%v)", rtype, got, ok)
		}
	}
	for _, rtype := range []uint8{0, 7, 255} {
		if _, ok := TypeFromNVMe(rtype); ok {
			t.Errorf("RTYPE %d was taken", rtype)
		}
	}
	for n, want := range map[Notice]uint8{RegistrationsPreempted: 1, ReservationsReleased: 2, ReservationsPreempted: 3} {
		if n.NVMe() != want {
			t.Errorf("notice %#x is log page type %d, want %d", uint8(n), n.NVMe(), want)
		}
	}
}
