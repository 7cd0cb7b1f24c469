package scsi

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/blockdev/fault"
	"blockd.dev/blockdev/ram"
	"blockd.dev/internal/clock"
)

// bed is a target with one RAM unit behind a fault injector at LUN 0, and
// what a transport does around it.
type bed struct {
	tb     testing.TB
	arena  *arena.Arena
	ram    *ram.Device
	faults *fault.Device
	target *Target
	nexus  *Nexus
	events []Event
	mu     sync.Mutex
}

const (
	bedBlocks = 4096
	bedBlock  = 512
)

var bedUnit = UnitID{1, 2, 3}

func newBed(tb testing.TB, change ...func(*TargetConfig)) *bed {
	tb.Helper()
	return newClockedBed(tb, nil, change...)
}

func newClockedBed(tb testing.TB, now clock.Clock, change ...func(*TargetConfig)) *bed {
	tb.Helper()
	b := &bed{tb: tb}
	var err error
	if b.arena, err = arena.New(arena.Config{SizeBytes: 32 << 20, HugePages: arena.Off}); err != nil {
		tb.Fatal(err)
	}
	if b.ram, err = ram.New(ram.Config{SizeBytes: bedBlocks * bedBlock}); err != nil {
		tb.Fatal(err)
	}
	b.faults = fault.New(b.ram, nil)
	cfg := b.config()
	for _, c := range change {
		c(&cfg)
	}
	b.target, err = NewTarget(cfg, Deps{Arena: b.arena, Clock: now, Events: func(e Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.events = append(b.events, e)
	}})
	if err != nil {
		tb.Fatal(err)
	}
	b.nexus = b.attach("iqn.host-a")
	tb.Cleanup(func() {
		b.target.Close()
		if err := b.arena.Close(); err != nil {
			tb.Error(err)
		}
	})
	return b
}

func (b *bed) config() TargetConfig {
	return TargetConfig{
		Name:    "iqn.2025-01.dev.blockd:test",
		Units:   []UnitConfig{{ID: bedUnit, Name: "vol0", Device: b.faults}},
		AnyView: View{0: bedUnit},
		Ports:   []PortConfig{{RelativeID: 1, Group: 1, Name: "iqn.2025-01.dev.blockd:test,t,0x0001"}},
	}
}

// attach gives a nexus of an initiator, its first unit attention taken.
func (b *bed) attach(initiator string) *Nexus {
	n := b.target.Attach(NexusID{InitiatorName: initiator, TargetPort: 1})
	for _, i := range n.itls() {
		i.ua.drop(^attention(0))
	}
	return n
}

// call is a command under way.
type call struct {
	*Task
	bed   *bed
	nexus *Nexus
	sg    arena.SG
	done  chan struct{}
}

// start prepares and executes a command; data is what the host sends.
func (b *bed) start(n *Nexus, lun uint64, attr TaskAttr, cdb []byte, data []byte) *call {
	c := b.prepare(n, lun, attr, cdb, data)
	if !c.finished() {
		n.Execute(c.Task)
	}
	return c
}

func (b *bed) prepare(n *Nexus, lun uint64, attr TaskAttr, cdb []byte, data []byte) *call {
	c := &call{Task: &Task{LUN: lun, CDB: cdb, Attr: attr, Expected: len(data)}, bed: b, nexus: n, done: make(chan struct{})}
	c.Done = func(*Task) { close(c.done) } // a second call panics
	if !n.Prepare(c.Task) {
		close(c.done)
		return c
	}
	if !b.arena.GetSG(c.Length, &c.sg) {
		b.tb.Fatalf("arena is empty; leak?")
	}
	c.Data = &c.sg
	if c.Dir == DirOut {
		c.OutLen = c.sg.CopyIn(0, data[:min(len(data), c.Length)])
	}
	return c
}

func (c *call) finished() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// result is how a command ended.
type result struct {
	status Status
	key    senseKey
	asc    additional
	data   []byte
	sense  []byte
	silent bool
}

func (r result) String() string {
	if r.status == StatusCheckCondition {
		return fmt.Sprintf("%02x/%x/%04x", uint8(r.status), uint8(r.key), uint16(r.asc))
	}
	return fmt.Sprintf("%02x", uint8(r.status))
}

// wait waits for the end and gives the buffers back.
func (c *call) wait() result {
	<-c.done
	r := result{status: c.Status, sense: append([]byte(nil), c.Sense[:c.SenseLen]...), silent: c.Silent}
	if c.InLen > c.Length {
		c.bed.tb.Errorf("InLen %d is above Length %d", c.InLen, c.Length)
	}
	if c.InLen > 0 {
		r.data = make([]byte, c.InLen)
		c.sg.CopyOut(0, r.data)
	}
	c.sg.Release()
	switch {
	case len(r.sense) >= 14 && r.sense[0]&0x7f == 0x70:
		r.key, r.asc = senseKey(r.sense[2]&0xf), additional(be16(r.sense[12:]))
	case len(r.sense) >= 8 && r.sense[0] == 0x72:
		r.key, r.asc = senseKey(r.sense[1]&0xf), additional(be16(r.sense[2:]))
	case r.status == StatusCheckCondition:
		c.bed.tb.Errorf("CHECK CONDITION with sense %x", r.sense)
	}
	return r
}

func (b *bed) do(cdb string, data ...byte) result {
	return b.start(b.nexus, 0, AttrSimple, fromHex(cdb), data).wait()
}

// want does a command and compares its end with e.g. "00" or "02/5/2400".
func (b *bed) want(end, cdb string, data ...byte) result {
	b.tb.Helper()
	r := b.do(cdb, data...)
	if r.String() != end {
		b.tb.Errorf("%s: got %v, want %s", cdb, r, end)
	}
	return r
}

func fromHex(s string) []byte {
	p, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return p
}

func fill(n int, c byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = c
	}
	return p
}

// blockAt reads a block past the device server.
func (b *bed) blocksAt(lba, n int) []byte {
	b.tb.Helper()
	p := make([]byte, n*bedBlock)
	if err := blockdev.ReadAt(b.ram, p, int64(lba*bedBlock)); err != nil {
		b.tb.Fatal(err)
	}
	return p
}

func u32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }
