package nvme

import (
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
)

// instant completes everything at once and moves no data, so that what is
// measured is the command set.
type instant struct{ blockdev.Device }

func (instant) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		blockdev.Complete(r, nil)
	}
}

// loop is one command that is run again and again, as a transport would.
type loop struct {
	Command
	sg arena.SG
	n  int
}

func (l *loop) run(q *Queue, e *[64]byte) {
	l.SQE = *e
	if !q.Prepare(&l.Command) {
		panic(l.Status)
	}
	l.Data, l.OutLen = &l.sg, l.Length
	q.Execute(&l.Command)
	if l.Status != Success {
		panic(l.Status)
	}
	l.Reset()
}

func newLoop(tb testing.TB) (*loop, *Queue) {
	b := newBed(tb, func(c *Config, _ *Deps) { c.Namespaces[0].Device = instant{c.Namespaces[0].Device} })
	l := &loop{}
	l.Done = func(*Command) { l.n++ }
	if !b.arena.GetSG(4096, &l.sg) {
		tb.Fatal("no buffer")
	}
	tb.Cleanup(l.sg.Release)
	return l, b.host.io
}

func entry4K(op uint8) [64]byte {
	e := rw(op, 8, 8, 0)
	le.PutUint32(e[32:], 4096)
	return e
}

func TestReadAndWriteDoNotAllocate(t *testing.T) {
	l, q := newLoop(t)
	for _, op := range []uint8{OpRead, OpWrite} {
		e := entry4K(op)
		if n := testing.AllocsPerRun(1000, func() { l.run(q, &e) }); n != 0 {
			t.Errorf("opcode %#x: %v allocations", op, n)
		}
	}
}

// The pair allocates nothing once its scratch has grown.
func TestFusedPairDoesNotAllocate(t *testing.T) {
	l, q := newLoop(t)
	second := &loop{}
	second.Done = l.Done
	if !q.ctrl.sub.deps.Arena.GetSG(4096, &second.sg) {
		t.Fatal("no buffer")
	}
	defer second.sg.Release()
	x, y := fuse(entry4K(OpCompare), fuseFirst), fuse(entry4K(OpWrite), fuseSecond)
	n := testing.AllocsPerRun(1000, func() {
		l.SQE, second.SQE = x, y
		if !q.Prepare(&l.Command) || !q.Prepare(&second.Command) {
			t.Fatal("refused")
		}
		l.Data, l.OutLen, second.Data, second.OutLen = &l.sg, l.Length, &second.sg, second.Length
		q.Execute(&l.Command)
		q.Execute(&second.Command)
		l.Reset()
		second.Reset()
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkRead4K(b *testing.B)  { benchmark(b, OpRead) }
func BenchmarkWrite4K(b *testing.B) { benchmark(b, OpWrite) }

func benchmark(b *testing.B, op uint8) {
	l, q := newLoop(b)
	e := entry4K(op)
	b.ReportAllocs()
	for b.Loop() {
		l.run(q, &e)
	}
}
