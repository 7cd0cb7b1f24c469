package secure_test

import (
	"bytes"
	"fmt"
	"testing"

	"blockd.dev/internal/invariants"
	"blockd.dev/replication/wire"
)

func TestPacketsPassBothWaysAtEachLevel(t *testing.T) {
	c, s := connected(t)
	for _, level := range []wire.Level{wire.LevelHandshake, wire.LevelData} {
		for from, to := range map[*end]*end{c: s, s: c} {
			for number := range uint64(3) {
				p, h := packet(number, "hello")
				sealed := from.sealers[level].Seal(p, h, number)
				if len(sealed) != len(p)+from.sealers[level].Overhead() || bytes.Contains(sealed, []byte("hello")) {
					t.Fatalf("sealed %q to %q", p, sealed)
				}
				got, ok := to.openers[level].Open(sealed, h, number)
				if !ok || string(got) != "hello" {
					t.Fatalf("level %d: opened %q, %v", level, got, ok)
				}
			}
		}
	}
}

// Every bit of a packet counts, and so do its number and length.
func TestChangedPacketIsRefused(t *testing.T) {
	c, s := connected(t)
	p, h := packet(7, "some payload")
	sealed := c.sealers[wire.LevelData].Seal(p, h, 7)
	o := s.openers[wire.LevelData]
	refuse := func(what string, packet []byte, number uint64) {
		t.Helper()
		if got, ok := o.Open(bytes.Clone(packet), h, number); ok {
			t.Errorf("%s: opened %q", what, got)
		}
	}
	for bit := range 8 * len(sealed) {
		changed := bytes.Clone(sealed)
		changed[bit/8] ^= 1 << (bit % 8)
		refuse(fmt.Sprintf("bit %d changed", bit), changed, 7)
	}
	for n := range len(sealed) {
		refuse(fmt.Sprintf("first %d bytes", n), sealed[:n], 7)
	}
	refuse("one byte more", append(bytes.Clone(sealed), 0), 7)
	refuse("another number", sealed, 8)
	if got, ok := o.Open(sealed, h, 7); !ok || string(got) != "some payload" {
		t.Errorf("the true packet after them: %q, %v", got, ok)
	}
}

// The two directions, two levels and two connections have different keys.
func TestPacketForAnotherOpenerIsRefused(t *testing.T) {
	c, s := connected(t)
	_, other := connected(t)
	p, h := packet(0, "x")
	sealed := c.sealers[wire.LevelData].Seal(p, h, 0)
	for what, o := range map[string]wire.Opener{
		"another connection": other.openers[wire.LevelData],
		"its own direction":  c.openers[wire.LevelData],
		"another level":      s.openers[wire.LevelHandshake],
	} {
		if got, ok := o.Open(bytes.Clone(sealed), h, 0); ok {
			t.Errorf("%s opened %q", what, got)
		}
	}
}

// Both sides come to the same next keys, each of which opens nothing of another.
func TestNextKeysFitEachOtherOnly(t *testing.T) {
	c, s := connected(t)
	sealers, openers := []wire.Sealer{c.sealers[wire.LevelData]}, []wire.Opener{s.openers[wire.LevelData]}
	for i := range 4 {
		sealers = append(sealers, sealers[i].Next())
		openers = append(openers, openers[i].Next())
	}
	for i, sealer := range sealers {
		for j, opener := range openers {
			p, h := packet(5, "hello")
			got, ok := opener.Open(sealer.Seal(p, h, 5), h, 5)
			if ok != (i == j) || ok && string(got) != "hello" {
				t.Errorf("sealed with key %d, opened with key %d: %q, %v", i, j, got, ok)
			}
		}
	}
}

func TestSealAndOpenDoNotAllocate(t *testing.T) {
	if invariants.Enabled {
		t.Log("counted without -race only: the race detector allocates")
		return
	}
	c, s := connected(t)
	sealer, opener := c.sealers[wire.LevelData], s.openers[wire.LevelData]
	p := make([]byte, 4096, 4096+sealer.Overhead())
	number := uint64(0)
	n := testing.AllocsPerRun(1000, func() {
		if _, ok := opener.Open(sealer.Seal(p, 24, number), 24, number); !ok {
			t.Fatal(number)
		}
		number++
	})
	if n != 0 {
		t.Errorf("%v allocations per packet", n)
	}
}

func BenchmarkSealOpen(b *testing.B) {
	for _, size := range []int{64, 1400, 4096, 8900} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			c, s := connected(b)
			sealer, opener := c.sealers[wire.LevelData], s.openers[wire.LevelData]
			p := make([]byte, size, size+sealer.Overhead())
			number := uint64(0)
			b.SetBytes(int64(size))
			for b.Loop() {
				if _, ok := opener.Open(sealer.Seal(p, 24, number), 24, number); !ok {
					b.Fatal(number)
				}
				number++
			}
		})
	}
}
