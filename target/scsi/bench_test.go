package scsi

import (
	"sync"
	"testing"
)

// loop is one reusable task, as a transport has it.
type loop struct {
	bed  *bed
	call *call
	cdb  []byte
}

func newLoop(b *bed, cdb string) *loop {
	l := &loop{bed: b, cdb: fromHex(cdb), call: &call{Task: &Task{}, bed: b}}
	l.call.Done = func(*Task) {}
	if !b.arena.GetSG(8*bedBlock, &l.call.sg) {
		b.tb.Fatal("arena is empty")
	}
	b.tb.Cleanup(l.call.sg.Release)
	return l
}

func (l *loop) once() {
	t := l.call.Task
	t.LUN, t.CDB, t.Attr = 0, l.cdb, AttrSimple
	if !l.bed.nexus.Prepare(t) || t.Length != 8*bedBlock {
		panic("the command was refused")
	}
	t.Data, t.OutLen = &l.call.sg, t.Length
	l.bed.nexus.Execute(t)
	if t.Status != StatusGood {
		panic("the command failed")
	}
	t.Reset()
}

var loopCommands = map[string]string{
	"Read10":  "28 00 00 00 00 08 00 00 08 00",
	"Write10": "2a 00 00 00 00 08 00 00 08 00",
	"Read16":  "88 00 00 00 00 00 00 00 00 08 00 00 00 08 00 00",
	"Write16": "8a 00 00 00 00 00 00 00 00 08 00 00 00 08 00 00",
}

// READ and WRITE allocate nothing.
func TestReadAndWriteDoNotAllocate(t *testing.T) {
	for name, cdb := range loopCommands {
		l := newLoop(newBed(t), cdb)
		if n := testing.AllocsPerRun(200, l.once); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// BenchmarkCommand4K is a command of 4 KiB from Prepare to Reset on RAM; the
// device and its copy of the data are within.
func BenchmarkCommand4K(b *testing.B) {
	for _, name := range []string{"Read10", "Write10", "Read16", "Write16"} {
		b.Run(name, func(b *testing.B) {
			l := newLoop(newBed(b), loopCommands[name])
			b.ReportAllocs()
			for b.Loop() {
				l.once()
			}
		})
	}
}

// Hosts, task management, configuration and device changes at once: run with
// -race. Every command ends, and the target is usable afterwards.
func TestEverythingAtOnce(t *testing.T) {
	b := newBed(t)
	const rounds = 200
	var wg sync.WaitGroup
	for host := range 4 {
		wg.Go(func() {
			id := NexusID{InitiatorName: "iqn.racer", ISID: [6]byte{byte(host)}, TargetPort: 1}
			n := b.target.Attach(id)
			for i := range rounds {
				attr := []TaskAttr{AttrSimple, AttrSimple, AttrOrdered, AttrHeadOfQueue}[i%4]
				cdb := []string{tRead, tWrite, "2f 00 00 00 00 00 00 00 10 00", "8b 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00", tTUR}[i%5]
				b.start(n, 0, attr, fromHex(cdb), fill(bedBlock, byte(i))).wait()
				switch i % 50 {
				case 10:
					<-tmf(n, TMFAbortTaskSet, nil)
				case 20:
					<-tmf(n, TMFLUNReset, nil)
				case 30:
					n = b.target.Attach(id)
				case 40:
					n.Detach()
					n = b.target.Attach(id)
				}
			}
			n.Detach()
		})
	}
	wg.Go(func() {
		for i := range rounds {
			cfg := b.config()
			if i%2 == 0 {
				cfg.Groups = []GroupConfig{{ID: 1, State: AccessNonOptimized}}
				cfg.AnyView = View{0: bedUnit, 1: bedUnit}
			}
			if err := b.target.Configure(cfg); err != nil {
				t.Error(err)
			}
			if err := b.ram.Resize(int64(bedBlocks+8*(i%2)) * bedBlock); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	n := b.attach("iqn.after")
	if r := b.simple(n, tTUR).wait(); r.String() != "00" {
		t.Errorf("afterwards: %v", r)
	}
}
