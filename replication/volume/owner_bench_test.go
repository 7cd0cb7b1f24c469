package volume

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/replica"
)

// echo answers every request, in order, and gives completed ops back.
type echo struct {
	sent []sent
	free []*Op
	data []byte
	vers []replica.Version
}

func (e *echo) Send(disk int, q replica.Request) { e.sent = append(e.sent, sent{disk, q}) }
func (e *echo) Propose(Proposal)                 {}
func (e *echo) Complete(op *Op)                  { e.free = append(e.free, op) }

// answer gives o what it has asked for since the last call.
func (e *echo) answer(o *Owner, now clock.Mono) {
	list := e.sent
	e.sent = e.sent[len(e.sent):]
	for _, s := range list {
		resp := replica.Response{ID: s.q.ID, Status: replica.OK, Epoch: s.q.Epoch, Boot: 1}
		if s.q.Kind == replica.Read {
			resp.Data, resp.Vers = e.data[:s.q.Len], e.vers
		}
		o.Answer(now, s.disk, resp)
	}
	if len(e.sent) == 0 {
		e.sent = list[:0]
	}
}

// benchOwner serves 64 extents on three replicas each of five.
func benchOwner() (*Owner, *echo) {
	e := &echo{data: make([]byte, 4096), vers: make([]replica.Version, 1)}
	e.data[0] = 1
	cfg := Config{
		BlockBytes: 4096, RegionBytes: 64 << 10, ExtentBytes: 64 << 20, VolumeBytes: 64 * 64 << 20, MinInSync: 2,
		Sets:      func(extent int64) []int { i := int(extent); return []int{i % 5, (i + 1) % 5, (i + 2) % 5} },
		OpTimeout: time.Second, RequestTimeout: time.Second, HedgeAfter: time.Second, RetryAfter: time.Second,
		OutAfter: time.Second, StableAfter: time.Second, CompareRegions: 16, RebuildJobs: 2,
	}
	in := Member{Sync: InSync, Gen: 1}
	o := New(cfg, e, Grant{View: View{Revision: 1, Epoch: 1, Members: []Member{in, in, in, in, in}}, Until: clock.Never, Local: 0}, 1)
	o.Tick(1)
	e.answer(o, 1)
	return o, e
}

// keep submits ops of kind and answers for them until n have been completed,
// depth at a time.
func keep(o *Owner, e *echo, kind OpKind, depth, n int) {
	rng := rand.New(rand.NewPCG(1, 2))
	now := clock.Mono(2)
	e.free = e.free[:0]
	for range depth {
		e.free = append(e.free, &Op{Data: make([]byte, 4096)})
	}
	for left := n; left > 0; {
		for _, op := range e.free {
			op.Kind, op.Off = kind, rng.Int64N(o.cfg.VolumeBytes/4096)*4096
			o.Submit(now, op)
			left--
		}
		e.free = e.free[:0]
		for len(e.free) == 0 {
			e.answer(o, now)
		}
		now++
	}
}

func BenchmarkOwner(b *testing.B) {
	for _, kind := range []OpKind{Read, Write} {
		for _, depth := range []int{1, 32, 256} {
			b.Run(fmt.Sprintf("%s/qd%d", map[OpKind]string{Read: "read", Write: "write"}[kind], depth), func(b *testing.B) {
				o, e := benchOwner()
				if !o.Serving() {
					b.Fatal("does not serve")
				}
				keep(o, e, kind, depth, 2*depth)
				b.ReportAllocs()
				b.ResetTimer()
				keep(o, e, kind, depth, b.N)
			})
		}
	}
}

// A read or a write in flight costs no memory of its own.
func TestSteadyStateDoesNotAllocate(t *testing.T) {
	for _, kind := range []OpKind{Read, Write} {
		o, e := benchOwner()
		const n, depth = 20000, 64
		keep(o, e, kind, depth, n)
		got := testing.AllocsPerRun(1, func() { keep(o, e, kind, depth, n) })
		if perOp := (got - 2*depth) / n; perOp > 0.01 {
			t.Errorf("kind %d: %.3f allocations per op", kind, perOp)
		}
	}
}
