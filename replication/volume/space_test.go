package volume

import (
	"bytes"
	"testing"
	"time"

	"blockd.dev/replication/replica"
)

// answers gives the requests of a kind that were sent to the members their answer.
func (b *bench) answers(kind replica.Kind, resp map[int]replica.Response) {
	b.t.Helper()
	list := b.take(kind)
	if len(list) != len(resp) {
		b.t.Fatalf("%d requests of kind %d were sent, want %d: %+v", len(list), kind, len(resp), list)
	}
	for _, s := range list {
		r, ok := resp[s.disk]
		if !ok {
			b.t.Fatalf("replica %d was sent %+v", s.disk, s.q)
		}
		b.answer(s, r)
	}
}

var (
	ok   = replica.Response{Status: replica.OK}
	full = replica.Response{Status: replica.NoSpace}
	old  = bytes.Repeat([]byte{7}, 8)
)

// [I13]: the host hears at once; who has taken the write gets back what the
// others have, with the lock held and the watermark below.
func TestRefusedWriteIsUndone(t *testing.T) {
	b := serves(t)
	op := writeAt(0)
	b.o.Submit(b.now, op)
	b.answers(replica.Write, map[int]replica.Response{0: ok, 1: full, 2: full})
	b.only(op, ErrNoSpace)
	if !op.Sent {
		t.Error("a replica has had the write")
	}
	after := readAt(0)
	b.o.Submit(b.now, after)
	b.answers(replica.Read, map[int]replica.Response{1: {Status: replica.OK, Data: old}, 2: {Status: replica.OK, Data: old}})
	if s := b.o.Status(); s.Stable != 40 || s.InFlight != 2 {
		t.Errorf("watermark %d with %d pieces in flight, want that from before the write, and both", s.Stable, s.InFlight)
	}
	undo := b.take(replica.Write)
	if len(undo) != 1 || undo[0].disk != 0 || !bytes.Equal(undo[0].q.Data, old) || undo[0].q.Ver.Seq != 42 {
		t.Fatalf("sent %+v, want what the others have, to replica 0", undo)
	}
	b.answer(undo[0], ok)
	read := b.take(replica.Read)
	if len(read) != 1 {
		t.Fatalf("sent %+v, want the read that waited", read)
	}
	b.answer(read[0], replica.Response{Status: replica.OK, Data: old})
	b.only(after, nil)
	if s := b.o.Status(); s.Stable != 42 || s.InFlight != 0 || s.Members[1].Refused != 1 || s.Members[0].Refused != 0 {
		t.Errorf("in the end: %+v", s)
	}
}

// What all have refused needs nothing but a look at what they have: here all are
// holes.
func TestAllFull(t *testing.T) {
	b := serves(t)
	op := writeAt(0)
	b.o.Submit(b.now, op)
	b.answers(replica.Write, map[int]replica.Response{0: full, 1: full, 2: full})
	b.only(op, ErrNoSpace)
	b.answers(replica.Read, map[int]replica.Response{0: ok, 1: ok, 2: ok})
	if s := b.o.Status(); len(b.sent) != 0 || s.InFlight != 0 {
		t.Errorf("then %d pieces are in flight, sent %+v", s.InFlight, b.sent)
	}
	if err := b.do(&Op{Kind: Unmap, Len: 8}); err != nil {
		t.Errorf("unmap: %v", err)
	}
}

// When the refusing replica is lost and marked out the write stands.
func TestRefusedWriteStandsWithoutWhoRefused(t *testing.T) {
	b := serves(t)
	op := writeAt(0)
	b.o.Submit(b.now, op)
	b.answers(replica.Write, map[int]replica.Response{0: ok, 1: full, 2: ok})
	b.only(op, ErrNoSpace)
	b.o.Unreachable(b.now, 1)
	b.take(replica.Read)
	b.pass(time.Millisecond)
	b.o.Meta(b.now, View{Revision: 2, Epoch: 3, Members: []Member{{Sync: InSync, Gen: 1}, {Sync: Out, Gen: 2}, {Sync: InSync, Gen: 1}}})
	if s := b.o.Status(); s.InFlight != 0 || s.Stable != 41 || len(b.take(replica.Write)) != 0 {
		t.Errorf("then %d pieces are in flight, the watermark is %d", s.InFlight, s.Stable)
	}
}

// A copy for which there is no space is tried again after a while, and the
// rebuild is at an end when there is.
func TestRebuildOnAFullDisk(t *testing.T) {
	cfg := testConfig
	cfg.FullAfter = 50 * time.Millisecond
	b := begins(t, cfg, Member{Sync: InSync, Gen: 1}, Member{Sync: InSync, Gen: 1}, Member{Sync: Rebuilding, Gen: 2})
	b.fenced(ok, 0, 1, 2)
	view := []Member{{Sync: InSync, Gen: 1}, {Sync: InSync, Gen: 1}, {Sync: Rebuilding, Gen: 3}}
	b.o.Meta(b.now, View{Revision: 2, Epoch: b.o.epoch, Members: view})
	copies, refused := 0, 20
	for end := b.now.Add(2 * time.Second); b.now < end && b.o.conns[2].re.phase != entering; b.pass(5 * time.Millisecond) {
		for len(b.sent) > 0 {
			s := b.sent[0]
			b.sent = b.sent[1:]
			resp := replica.Response{Status: replica.OK}
			switch s.q.Kind {
			case replica.Versions, replica.Read:
				resp.Vers = make([]replica.Version, (s.q.Len+31)/32)
			case replica.Confirm:
				resp.Differ = []int64{s.q.Off}
			case replica.Copy:
				if copies++; copies <= refused {
					resp.Status = replica.NoSpace
				}
			default:
			}
			b.answer(s, resp)
		}
	}
	if b.o.conns[2].re.phase != entering {
		t.Errorf("the rebuild is not done after %d copies", copies)
	}
	if took := b.now.Sub(1); took < 20/2*cfg.FullAfter*9/10 {
		t.Errorf("%d copies were refused within %v, two at a time: want a pause of %v after each", refused, took, cfg.FullAfter)
	}
}
