package volume

import (
	"testing"

	"blockd.dev/replication/replica"
)

// restarted has member 2, which is back after a power cut, answer a Fence with what it has.
func (b *bench) restarted(stable uint64, tail ...uint64) {
	b.t.Helper()
	b.o.Unreachable(b.now, 2)
	b.pass(testConfig.RetryAfter)
	b.again(2, stable, tail...)
}

// again has member 2 answer a Fence as of this boot.
func (b *bench) again(boot, stable uint64, tail ...uint64) {
	b.t.Helper()
	for _, s := range b.take(replica.Fence) {
		if s.disk != 2 {
			continue
		}
		resp := replica.Response{ID: s.q.ID, Epoch: s.q.Epoch, Boot: boot, Status: replica.OK, Stable: stable}
		for _, seq := range tail {
			resp.Tail = append(resp.Tail, replica.Entry{Ver: replica.Version{Epoch: 3, Seq: seq}, Len: 8})
		}
		b.o.Answer(b.now, 2, resp)
	}
}

// [I15]: a replica whose disk has lost what it acknowledged is not let in before it is out, and then it is rebuilt.
// Who has all of it, in its tail or below its watermark, is.
func TestWhatADiskHasLostIsNoticed(t *testing.T) {
	for name, c := range map[string]struct {
		stable uint64
		tail   []uint64
		lost   bool
	}{
		"all is there":                    {41, []uint64{51, 52}, false},
		"the last write is missing":       {41, []uint64{51}, true},
		"the one before is missing":       {41, []uint64{52}, true},
		"the stored watermark is missing": {40, []uint64{51, 52}, true},
		"all is below the watermark":      {52, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := serves(t)
			for range 2 {
				if err := b.do(writeAt(0)); err != nil {
					t.Fatal(err)
				}
			}
			b.restarted(c.stable, c.tail...)
			st := b.o.Status().Members[2]
			if st.Doubted != c.lost || st.Connected == c.lost || st.Lost == 1 != c.lost {
				t.Fatalf("%+v, want it lost: %v", st, c.lost)
			}
			if !c.lost {
				if len(b.proposed) != 0 {
					t.Errorf("proposed %+v", b.proposed)
				}
				return
			}
			if len(b.proposed) != 1 || b.proposed[0] != (Proposal{MarkOut, 2, 3, 1}) {
				t.Fatalf("proposed %+v, want MarkOut of replica 2", b.proposed)
			}
			b.pass(testConfig.RetryAfter)
			b.again(2, c.stable, c.tail...)
			if st := b.o.Status().Members[2]; st.Connected || st.Lost != 1 {
				t.Errorf("then %+v, want it kept out and counted once", st)
			}
			in := Member{InSync, 1}
			b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{in, in, {Out, 2}}})
			b.pass(testConfig.RetryAfter)
			b.proposed = nil
			b.again(2, c.stable, c.tail...)
			if len(b.proposed) != 1 || b.proposed[0] != (Proposal{MarkRebuilding, 2, 3, 2}) || b.o.Status().Members[2].Doubted {
				t.Errorf("proposed %+v once it is out, want that it is rebuilt", b.proposed)
			}
		})
	}
}

// [I15]: a takeover looks at the watermarks that its replicas in sync have. One that is so far behind that others could
// not have theirs is marked out, when what is in its tail has been looked at. One less behind may have
// lost only what is in tails.
func TestTakeoverDoubtsWhoIsFarBehind(t *testing.T) {
	in := Member{InSync, 1}
	for behind, doubted := range map[uint64]bool{0: false, 10: false, 11: true} {
		b := begins(t, testConfig, in, in, in)
		tail := []replica.Entry{{Ver: replica.Version{Epoch: 2, Seq: 101}, Len: 8}}
		for _, s := range b.take(replica.Fence) {
			resp := replica.Response{Status: replica.OK, Stable: 100, Last: 101}
			if s.disk == 2 {
				resp.Stable, resp.Tail = 100-behind, tail
			}
			b.answer(s, resp)
		}
		reads := b.take(replica.Read)
		if len(reads) != 1 || reads[0].disk != 2 {
			t.Fatalf("%d behind: reads %+v, want what only replica 2 has in its tail", behind, reads)
		}
		b.answer(reads[0], replica.Response{Status: replica.OK, Data: []byte("unstable")})
		if len(b.proposed) != 0 {
			t.Errorf("%d behind: proposed %+v before all have what is in the tail", behind, b.proposed)
		}
		for _, s := range b.take(replica.Write) {
			b.answer(s, replica.Response{Status: replica.OK})
		}
		if b.o.Serving() == doubted || b.o.Status().Members[2].Doubted != doubted {
			t.Errorf("%d behind: serves %v, %+v", behind, b.o.Serving(), b.o.Status().Members[2])
		}
		if !doubted {
			continue
		}
		if len(b.proposed) != 1 || b.proposed[0] != (Proposal{MarkOut, 2, 3, 1}) {
			t.Fatalf("%d behind: proposed %+v, want MarkOut of replica 2", behind, b.proposed)
		}
		b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{in, in, {Out, 2}}})
		b.pass(testConfig.RetryAfter)
		b.fenced(replica.Response{Stable: 100, Last: 101}, 0, 1)
		if !b.o.Serving() {
			t.Error("does not serve without who was doubted")
		}
	}
}

// Who alone is in sync of an extent is taken as it is: there is nothing better.
func TestOnlyReplicaIsNotDoubted(t *testing.T) {
	in := Member{InSync, 1}
	b := begins(t, spread(), in, in, in, Member{Out, 2}) // member 2 alone has extent 2
	for _, s := range b.take(replica.Fence) {
		resp := replica.Response{Status: replica.OK, Stable: 100, Last: 100}
		if s.disk == 2 {
			resp.Stable = 50
		}
		b.answer(s, resp)
	}
	if !b.o.Serving() || len(b.proposed) != 1 || b.proposed[0].Change != MarkRebuilding || b.o.Status().Members[2].Doubted {
		t.Errorf("serves %v, proposed %+v: want no doubts about the only copy of an extent", b.o.Serving(), b.proposed)
	}
}

// [I15]: a rebuild ends when those who have the same extents have stored a watermark that a disk which then loses
// what was copied to it can't have.
func TestMarkInWaitsForTheWatermark(t *testing.T) {
	in := Member{InSync, 1}
	b := begins(t, testConfig, in, in, Member{Rebuilding, 2})
	b.fenced(replica.Response{Stable: 40, Last: 40}, 0, 1, 2)
	b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{in, in, {Rebuilding, 3}}})
	stored, asked := [3]uint64{40, 40, 40}, 0
	for n := 0; n < 100 && !marksIn(b.proposed); n++ {
		list := b.sent
		b.sent = nil
		for _, s := range list {
			resp := replica.Response{Status: replica.OK}
			switch s.q.Kind {
			case replica.Versions:
				resp.Vers = make([]replica.Version, s.q.Len/testConfig.RegionBytes)
			case replica.Stable:
				asked++
				stored[s.disk] = max(stored[s.disk], s.q.Stable)
				resp.Stable = stored[s.disk]
			default:
			}
			b.answer(s, resp)
		}
		if len(b.sent) == 0 {
			b.pass(testConfig.RetryAfter)
		}
	}
	if !marksIn(b.proposed) || asked == 0 {
		t.Fatalf("proposed %+v, %d watermarks stored", b.proposed, asked)
	}
	for d, s := range stored { // before, nobody was told more than 40
		if s <= 40+testConfig.Lag {
			t.Errorf("replica %d has stored watermark %d, want one that none has who has stored 40 and the copies not", d, s)
		}
	}
}

func marksIn(list []Proposal) bool {
	for _, p := range list {
		if p.Change == MarkIn {
			return true
		}
	}
	return false
}
