package queue

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"blockd.dev/afxdp/ring"
	"blockd.dev/afxdp/ring/ringtest"
	"blockd.dev/internal/invariants"
)

// fixture is a queue with the simulated kernel behind it. The share is not at
// the start of the UMEM.
type fixture struct {
	k *ringtest.Kernel
	q *Queue
}

const chunksBefore = 3

func newFixture(t interface{ Fatal(...any) }, l Layout, cfg ringtest.Config) fixture {
	fill, completion, rx, tx := l.Entries()
	cfg.Chunks, cfg.Fill, cfg.Completion, cfg.RX, cfg.TX = chunksBefore+l.Chunks(), int(fill), int(completion), int(rx), int(tx)
	k := ringtest.New(cfg)
	q, err := New(ring.Set{
		Fill: ring.NewProducer(k.Fill.Memory()), Completion: ring.NewConsumer(k.Completion.Memory()),
		RX: ring.NewConsumer(k.RX.Memory()), TX: ring.NewProducer(k.TX.Memory()),
	}, k.UMEM[chunksBefore*chunkBytes:], chunksBefore*chunkBytes, l)
	if err != nil {
		t.Fatal(err)
	}
	return fixture{k, q}
}

// pattern is n bytes that name the frame and each place in it.
func pattern(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// TestNoSlotIsLostOrInTwoPlaces runs any order of what a user and a kernel do,
// from any ring index, and compares content, order and count of frames both
// ways with lists. Package invariants is on in -race builds and checks each
// move; the simulated kernel checks what it is given.
func TestNoSlotIsLostOrInTwoPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Layout{RxSlots: rapid.IntRange(1, 9).Draw(t, "rx"), TxSlots: rapid.IntRange(1, 9).Draw(t, "tx"), Stride: rapid.IntRange(1, 4).Draw(t, "stride")}
		f := newFixture(t, l, ringtest.Config{
			FirstIndex:   rapid.OneOf(rapid.Just(uint32(0)), rapid.Uint32Range(1<<32-20, 1<<32-1)).Draw(t, "index"),
			ReceiveBytes: rapid.SampledFrom([]int{0, 1000, 3840}).Draw(t, "segment"),
		})
		var (
			seed      uint64
			arrived   [][]byte              // in the RX ring, not taken
			held      []Frame               // taken
			contents  = map[uint32][]byte{} // of held, to see that nobody writes there
			lent      []uint32
			sent      [][]byte // pushed, the kernel has not taken them
			published int      // of sent
			onWire    int      // descriptors transmitted, not completed
		)
		room := l.SlotBytes() - 256
		t.Repeat(map[string]func(*rapid.T){
			"arrive": func(t *rapid.T) {
				seed++
				b := pattern(seed, rapid.OneOf(rapid.IntRange(1, 200), rapid.IntRange(1, room+600)).Draw(t, "bytes"))
				if f.k.Receive(b) && len(b) <= room {
					arrived = append(arrived, b)
				}
			},
			"next": func(t *rapid.T) {
				for range rapid.IntRange(1, 4).Draw(t, "n") {
					fr, ok := f.q.Next()
					if ok != (len(arrived) > 0) {
						t.Fatalf("Next: %v with %d frames there", ok, len(arrived))
					}
					if !ok {
						break
					}
					if !bytes.Equal(fr.Data, arrived[0]) {
						t.Fatalf("%d bytes arrived as %d others", len(arrived[0]), len(fr.Data))
					}
					held, arrived = append(held, fr), arrived[1:]
					contents[fr.Slot] = bytes.Clone(fr.Data)
				}
				f.q.Flush()
			},
			"recycle": func(t *rapid.T) {
				if len(held) == 0 {
					return
				}
				i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				if !bytes.Equal(held[i].Data, contents[held[i].Slot]) {
					t.Fatal("a frame changed while the user had it")
				}
				clear(held[i].Data) // the user may write to it
				f.q.Recycle(held[i].Slot)
				held = append(held[:i], held[i+1:]...)
				f.q.Flush()
			},
			"take": func(t *rapid.T) {
				slot, ok := f.q.Take()
				if !ok {
					if f.q.InFlight() != l.TxSlots {
						t.Fatalf("nothing to take with %d of %d in flight", f.q.InFlight(), l.TxSlots)
					}
					return
				}
				lent = append(lent, slot)
			},
			"send": func(t *rapid.T) {
				if len(lent) == 0 {
					return
				}
				slot := lent[0]
				lent = lent[1:]
				if rapid.Bool().Draw(t, "put back") {
					f.q.PutBack(slot)
					return
				}
				seed++
				off := rapid.IntRange(0, l.SlotBytes()-1).Draw(t, "off")
				b := pattern(seed, rapid.IntRange(1, l.SlotBytes()-off).Draw(t, "bytes"))
				copy(f.q.Room(slot)[off:], b)
				f.q.Send(slot, off, len(b))
				sent = append(sent, b)
			},
			"publish": func(t *rapid.T) {
				need := rapid.Bool().Draw(t, "kernel sleeps")
				f.k.TX.SetNeedWakeup(need)
				if got := f.q.Publish(); got != (need && len(sent) > 0) {
					t.Fatalf("Publish() = %v with %d frames and need %v", got, len(sent), need)
				}
				published = len(sent)
			},
			"transmit": func(t *rapid.T) {
				b := f.k.Transmit()
				if (b != nil) != (published > 0) {
					t.Fatalf("the kernel got %d bytes of %d published frames", len(b), published)
				}
				if b == nil {
					return
				}
				if !bytes.Equal(b, sent[0]) {
					t.Fatalf("%d bytes were sent as %d others", len(sent[0]), len(b))
				}
				sent = sent[1:]
				published--
				onWire++
			},
			"complete": func(t *rapid.T) {
				f.k.Complete(rapid.IntRange(1, 5).Draw(t, "n"), rapid.Bool().Draw(t, "reversed"))
				f.q.Reap()
			},
			"": func(t *rapid.T) {
				if f.q.Held() != len(held) {
					t.Fatalf("Held() = %d, want %d", f.q.Held(), len(held))
				}
			},
		})
		// At rest, everything is where it started.
		for {
			fr, ok := f.q.Next()
			if !ok {
				break
			}
			held = append(held, fr)
		}
		for _, fr := range held {
			f.q.Recycle(fr.Slot)
		}
		for _, slot := range lent {
			f.q.PutBack(slot)
		}
		f.q.Flush()
		f.q.Publish()
		for f.k.Transmit() != nil {
		}
		f.k.Complete(1<<20, false)
		f.q.Reap()
		if f.k.Waiting() != l.RxSlots || f.q.InFlight() != 0 || f.k.Holds() != 0 {
			t.Fatalf("in the fill ring %d of %d slots, %d of the send slots missing, the kernel holds %d", f.k.Waiting(), l.RxSlots, f.q.InFlight(), f.k.Holds())
		}
	})
}

// TestTooLongFramesAreDroppedWhole: and counted, and the next one is good.
func TestTooLongFramesAreDroppedWhole(t *testing.T) {
	f := newFixture(t, Layout{RxSlots: 8, TxSlots: 1, Stride: 2}, ringtest.Config{})
	long, good := pattern(1, 3*3840), pattern(2, 5000)
	for _, b := range [][]byte{long, good} {
		if !f.k.Receive(b) {
			t.Fatal("no room")
		}
	}
	fr, ok := f.q.Next()
	if !ok || !bytes.Equal(fr.Data, good) {
		t.Fatalf("got %v, %d bytes", ok, len(fr.Data))
	}
	if f.q.Dropped() != 1 {
		t.Errorf("%d dropped", f.q.Dropped())
	}
	f.q.Recycle(fr.Slot)
	f.q.Flush()
	if f.k.Waiting() != 8 {
		t.Errorf("%d slots came back", f.k.Waiting())
	}
}

// TestPartsOfAFrameMayComeLate: a driver may show the parts of a frame one at
// a time, of any length and at any place in their chunk.
func TestPartsOfAFrameMayComeLate(t *testing.T) {
	f := newFixture(t, Layout{RxSlots: 4, TxSlots: 1, Stride: 2}, ringtest.Config{})
	want := pattern(3, 300)
	for i := range 3 {
		f.k.ReceiveDescs(1, func(_ int, chunk uint64) ring.Desc {
			d := ring.Desc{Addr: chunk + uint64(500*i), Len: 100, Options: ring.Continued}
			if i == 2 {
				d.Options = 0
			}
			copy(f.k.UMEM[d.Addr:], want[100*i:100*(i+1)])
			return d
		})
		fr, ok := f.q.Next()
		f.q.Flush()
		if ok != (i == 2) || ok && !bytes.Equal(fr.Data, want) {
			t.Fatalf("after %d parts: %v, %d bytes", i+1, ok, len(fr.Data))
		}
	}
}

// TestFlushReportsTheWakeupFlag: but only when something was recycled.
func TestFlushReportsTheWakeupFlag(t *testing.T) {
	f := newFixture(t, Layout{RxSlots: 2, TxSlots: 1, Stride: 1}, ringtest.Config{})
	f.k.Fill.SetNeedWakeup(true)
	if f.q.Flush() {
		t.Error("wake with nothing recycled")
	}
	f.k.Receive([]byte{1})
	fr, _ := f.q.Next()
	f.q.Recycle(fr.Slot)
	if !f.q.Flush() {
		t.Error("the kernel sleeps and was not to be woken")
	}
}

// TestMovesAreChecked: with assertions, a double release panics.
func TestMovesAreChecked(t *testing.T) {
	if !invariants.Enabled {
		return // there is nothing to see: the checks are compiled out
	}
	for name, misuse := range map[string]func(f fixture){
		"recycle twice":     func(f fixture) { fr, _ := f.q.Next(); f.q.Recycle(fr.Slot); f.q.Recycle(fr.Slot) },
		"put back twice":    func(f fixture) { s, _ := f.q.Take(); f.q.PutBack(s); f.q.PutBack(s) },
		"send twice":        func(f fixture) { s, _ := f.q.Take(); f.q.Send(s, 0, 1); f.q.Send(s, 0, 1) },
		"send what is free": func(f fixture) { f.q.Send(5, 0, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, Layout{RxSlots: 4, TxSlots: 4, Stride: 1}, ringtest.Config{})
			f.k.Receive([]byte{1})
			defer func() {
				if recover() == nil {
					t.Error("was not noticed")
				}
			}()
			misuse(f)
		})
	}
}

func TestBadLayoutsAreRefused(t *testing.T) {
	for _, l := range []Layout{{}, {1, 0, 1}, {0, 1, 1}, {1, 1, 0}, {1, 1, 17}, {1 << 21, 1, 1}} {
		if l.Check() == nil {
			t.Errorf("%+v was accepted", l)
		}
	}
	k := ringtest.New(ringtest.Config{Chunks: 8, Fill: 4, Completion: 4, RX: 4, TX: 4})
	rings := ring.Set{
		Fill: ring.NewProducer(k.Fill.Memory()), Completion: ring.NewConsumer(k.Completion.Memory()),
		RX: ring.NewConsumer(k.RX.Memory()), TX: ring.NewProducer(k.TX.Memory()),
	}
	for name, err := range map[string]error{
		"rings too small":  second(New(rings, k.UMEM, 0, Layout{5, 1, 1})),
		"memory too small": second(New(rings, k.UMEM[4096:], 4096, Layout{4, 4, 1})),
		"not at a chunk":   second(New(rings, k.UMEM, 1, Layout{1, 1, 1})),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func second(_ *Queue, err error) error { return err }

// TestQueueDoesNotAllocate covers what a datagram needs, both ways.
func TestQueueDoesNotAllocate(t *testing.T) {
	f := newFixture(t, Layout{RxSlots: 64, TxSlots: 64, Stride: 3}, ringtest.Config{})
	for f.k.Receive(pattern(1, 9000)) { // 3 chunks each, so 21 frames
	}
	if n := testing.AllocsPerRun(20, func() {
		slot, ok := f.q.Take()
		fr, arrived := f.q.Next()
		if !ok || !arrived {
			t.Fatal("ran out")
		}
		f.q.Room(slot)[100] = 1
		f.q.Send(slot, 100, 9000)
		f.q.Publish()
		f.q.Reap()
		f.q.Recycle(fr.Slot)
		f.q.Flush()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
