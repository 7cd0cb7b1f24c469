package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"slices"
	"testing"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
)

func pipe(t testing.TB, s *State) io.Reader {
	t.Helper()
	var b bytes.Buffer
	if _, err := s.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return &b
}

// spread is an identifier as random as real ones, for the n-th volume.
func spread(n uint32) []byte {
	sum := sha256.Sum256(binary.BigEndian.AppendUint32(nil, n))
	return sum[:16]
}

func bigVolumeCmd(n uint32, name string) *catalogpb.Command {
	c := volumeCmd(0, name)
	c.GetCreateVolume().Id = spread(n)
	return c
}

func bigGrantCmd(n, node uint32, incarnation, epoch uint64) *catalogpb.Command {
	c := grantCmd(0, node, incarnation, epoch)
	c.GetGrantLease().Volume = spread(n)
	return c
}

func bigReserveCmd(n uint32, generation uint64, blob string) *catalogpb.Command {
	c := reserveCmd(0, generation, blob)
	c.GetSetReservation().Volume = spread(n)
	return c
}

// large is a state of three nodes, and volumes, each leased and reserved.
func large(t testing.TB, volumes uint32) *State {
	s := cluster(t)
	s = mustApply(t, s, hostCmd(900, "h"), spreadPoolCmd(901, "three", 3, 0), spreadVolumeCmd(60, "spread", "three", 15_000*extmap.ShardBytes),
		allocateCmd(60, 0, slices.Repeat([]uint32{1, 2, 3}, 15_000)...), grantCmd(60, 101, 7, 0))
	for i := range volumes {
		name := fmt.Sprintf("vol-%05d", i)
		s = mustApply(t, s, bigVolumeCmd(i, name))
	}
	for i := range volumes {
		s = mustApply(t, s, bigGrantCmd(i, 101, 1, 0), bigReserveCmd(i, 0, "blob"))
	}
	return s
}

// Commands at 10,000 volumes. Those that come often are far below the time
// that the log takes to sync; the others copy one list.
func BenchmarkApply(b *testing.B) {
	s := large(b, 10000)
	for name, cmd := range map[string]func(s *State, i int) *catalogpb.Command{
		"resize": func(_ *State, i int) *catalogpb.Command {
			return resizeCmd(fmt.Sprintf("vol-%05d", i%10000), 1<<30+int64(i/10000+1)<<20)
		},
		"create": func(_ *State, i int) *catalogpb.Command {
			return bigVolumeCmd(500000+uint32(i), fmt.Sprintf("new-%d", i))
		},
		"map": func(_ *State, i int) *catalogpb.Command { return mapCmd(fmt.Sprintf("vol-%05d", i), "h", nil) },
		"lease": func(s *State, i int) *catalogpb.Command {
			id := uint32(i % 10000)
			l, _ := s.Lease(ID(spread(id)))
			return bigGrantCmd(id, 102, uint64(i+1), l.Epoch)
		},
		"reserve": func(s *State, i int) *catalogpb.Command {
			id := uint32(i % 10000)
			return bigReserveCmd(id, s.Reservation(ID(spread(id))).Generation, "blob")
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			cur := s
			for i := range b.N {
				if i%4000 == 0 {
					cur = s // within the bounds of lists
				}
				next, _, err := cur.Apply(cmd(cur, i%4000))
				if err != nil {
					b.Fatal(err)
				}
				cur = next
			}
		})
	}
	b.Run("hash", func(b *testing.B) {
		for range b.N {
			s.Hash()
		}
	})
	b.Run("stream", func(b *testing.B) {
		for range b.N {
			if n, err := s.WriteTo(io.Discard); err != nil {
				b.Fatal(err)
			} else {
				b.SetBytes(n)
			}
		}
	})
}

// What comes often does not copy the volumes: its cost in memory does not grow
// with them. Other commands copy the list that they change and no other.
func TestCommandsCopyLittle(t *testing.T) {
	s := large(t, 3000)
	perCommand := func(what string, mostBytes uint64, cmd func(s *State, i uint32) *catalogpb.Command) {
		var before, after runtime.MemStats
		const n = 1000
		cur := s
		runtime.ReadMemStats(&before)
		for i := range uint32(n) {
			cur = mustApply(t, cur, cmd(cur, i))
		}
		runtime.ReadMemStats(&after)
		bytes := (after.TotalAlloc - before.TotalAlloc) / n
		t.Logf("%s: %d bytes a command", what, bytes)
		if bytes > mostBytes {
			t.Errorf("%s: %d bytes a command, at most %d", what, bytes, mostBytes)
		}
	}
	const volumes = 176 * 3000 // a Volume has a little less
	perCommand("lease", 48<<10, func(s *State, i uint32) *catalogpb.Command { return bigGrantCmd(i, 102, 1, 1) })
	perCommand("mark", 48<<10, func(s *State, i uint32) *catalogpb.Command { return markCmd(60, 1, 2, uint64(i), toKept) })
	perCommand("reserve", 48<<10, func(s *State, i uint32) *catalogpb.Command { return bigReserveCmd(i, 1, "more") })
	perCommand("map", 96<<10, func(s *State, i uint32) *catalogpb.Command { return mapCmd(fmt.Sprintf("vol-%05d", i), "h", nil) })
	perCommand("resize", volumes+48<<10, func(s *State, i uint32) *catalogpb.Command {
		return resizeCmd(fmt.Sprintf("vol-%05d", i), 2<<30)
	})
	back, err := ReadState(pipe(t, s))
	if err != nil || back.Hash() != s.Hash() {
		t.Fatal(err)
	}
}
