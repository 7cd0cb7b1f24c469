package group

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

// The table of requests against the plain rule: whatever is proposed, however
// often and late, takes effect at most once, and is refused only when it might have.
func TestRequestsAreNeverAppliedTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q requests
		applied := map[RequestID]uint64{}
		type proposal struct {
			id    RequestID
			after uint64
		}
		var open []proposal
		index := uint64(0)
		const countMax, bytesMax = 7, 40
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			index++
			var p proposal
			if len(open) > 0 && rapid.Bool().Draw(t, "again") {
				p = rapid.SampledFrom(open).Draw(t, "which")
			} else {
				binary.BigEndian.PutUint64(p.id[:], index)
				p.after = index - uint64(rapid.IntRange(1, int(index)).Draw(t, "behind"))
				open = append(open, p)
			}
			o, known := q.find(p.id, p.after)
			at, was := applied[p.id]
			switch {
			case known && o.Code == codeOK && at != o.Index:
				t.Fatalf("it remembers index %d of what was applied at %d", o.Index, at)
			case known && o.Code == codeOutcomeUnknown && q.Horizon <= p.after:
				t.Fatal("refused without need")
			case !known && was:
				t.Fatalf("applied at %d and again at %d", at, index)
			case !known:
				applied[p.id] = index
				q.addWithin(p.id, outcome{Index: index, Data: make([]byte, rapid.IntRange(0, bytesMax/3).Draw(t, "size"))}, countMax, bytesMax)
				if len(q.List) > countMax || len(q.byID) != len(q.List) {
					t.Fatalf("%d requests, %d of them found", len(q.List), len(q.byID))
				}
			}
			if rapid.IntRange(0, 9).Draw(t, "snapshot") == 0 {
				f := q.frozen()
				b, err := json.Marshal(f)
				if err != nil {
					t.Fatal(err)
				}
				var back requests
				if err := json.Unmarshal(b, &back); err != nil {
					t.Fatal(err)
				}
				back.index()
				q = back
			}
		}
	})
}

// Two machines that are fed the same entries, one of them by way of snapshots,
// have the same hash, whatever the entries are.
func TestMachineIsDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		make1 := func() *machine {
			l := newLedger()
			l.version = 2
			return newMachine(l, identity{"test", "n1", 1}, func(Event) {})
		}
		a, b := make1(), make1()
		for i := range rapid.IntRange(1, 20).Draw(t, "entries") {
			var e envelope
			e.kind, e.version = kindFSM, rapid.SampledFrom([]uint32{1, 1, 1, 2}).Draw(t, "version")
			e.request[0] = byte(rapid.IntRange(0, 20).Draw(t, "request"))
			e.command = []byte(rapid.StringMatching("[a-z]{1,3}").Draw(t, "command"))
			node := Member{ID: rapid.SampledFrom([]string{"n1", "n2", "n3"}).Draw(t, "id"), Address: "a:1", MaxVersion: rapid.SampledFrom([]uint32{1, 2}).Draw(t, "has")}
			orders := []*order{nil, {Admit: &node}, {Announce: &node}, {Remove: &orderNode{node.ID}}, {TakeOffice: &node}, {Open: &orderOpen{2}}, {Mark: &struct{}{}}}
			if o := rapid.SampledFrom(orders).Draw(t, "order"); o != nil {
				e.kind, e.command = kindGroup, o.encode()
			}
			data := e.encode()
			if rapid.IntRange(0, 9).Draw(t, "damage") == 0 {
				data = data[:rapid.IntRange(0, len(data)).Draw(t, "cut")]
			}
			l := func() *raft.Log { return &raft.Log{Index: uint64(i + 1), Term: 3, Data: bytes.Clone(data)} }
			oa, ob := a.Apply(l()), b.Apply(l())
			if !reflect.DeepEqual(oa, ob) {
				t.Fatalf("%v and %v", oa, ob)
			}
			if rapid.IntRange(0, 5).Draw(t, "snapshot") == 0 {
				var stream bytes.Buffer
				if _, err := b.image().WriteTo(&stream); err != nil {
					t.Fatal(err)
				}
				b.hashes.working.Wait()
				b = make1()
				if err := b.Restore(readCloser{&stream}); err != nil {
					t.Fatal(err)
				}
			}
			if a.image().Hash() != b.image().Hash() {
				t.Fatalf("after entry %d: %s and %s", i+1, a.meta.encode(), b.meta.encode())
			}
		}
		a.hashes.working.Wait()
		b.hashes.working.Wait()
	})
}

type readCloser struct{ *bytes.Buffer }

func (readCloser) Close() error { return nil }

// A removed member stays removed, whatever is ordered.
func TestRemovedIsForEver(t *testing.T) {
	m := newMeta("test", 1)
	for _, id := range []string{"a", "b"} {
		if err := m.apply(1, &order{Admit: &Member{ID: id, Address: "x:1", MaxVersion: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.apply(1, &order{Remove: &orderNode{"a"}}); err != nil {
		t.Fatal(err)
	}
	gone := Member{ID: "a", Address: "x:1", MaxVersion: 9}
	for _, o := range []order{{Admit: &gone}, {Announce: &gone}, {TakeOffice: &gone}} {
		if m.apply(2, &o) == nil {
			t.Errorf("%s brought it back", o.encode())
		}
	}
	if err := m.apply(1, &order{Remove: &orderNode{"a"}}); err != nil {
		t.Errorf("a second removal: %v", err)
	}
}
