package umem

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	"blockd.dev/blockdev/arena"
)

func newArena(t interface{ Fatal(...any) }) *arena.Arena {
	a, err := arena.New(arena.Config{SizeBytes: 4 << 20, HugePages: arena.Off})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestSharesNeverOverlap cuts and releases at random; a share has what was
// asked for, where its base says, and nobody else has it.
func TestSharesNeverOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := newArena(t)
		u, err := New(a, 100)
		if err != nil {
			t.Fatal(err)
		}
		owner := make([]*Share, len(u.Bytes())/ChunkBytes)
		var shares []*Share
		release := func(i int) {
			for c := range owner {
				if owner[c] == shares[i] {
					owner[c] = nil
				}
			}
			shares[i].Release()
			shares = append(shares[:i], shares[i+1:]...)
		}
		t.Repeat(map[string]func(*rapid.T){
			"cut": func(t *rapid.T) {
				n := rapid.IntRange(1, 200).Draw(t, "chunks")
				s, err := u.Cut(n)
				if errors.Is(err, ErrFull) {
					run := 0
					for _, o := range owner {
						if run++; o != nil {
							run = 0
						}
						if run == n {
							t.Fatal("full, but there is room")
						}
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if len(s.Bytes()) != n*ChunkBytes || &s.Bytes()[0] != &u.Bytes()[s.Base()] {
					t.Fatalf("share of %d chunks has %d bytes at %d", n, len(s.Bytes()), s.Base())
				}
				for c := range n {
					at := int(s.Base())/ChunkBytes + c
					if owner[at] != nil {
						t.Fatalf("chunk %d has two owners", at)
					}
					owner[at] = s
				}
				shares = append(shares, s)
			},
			"release": func(t *rapid.T) {
				if len(shares) > 0 {
					release(rapid.IntRange(0, len(shares)-1).Draw(t, "which"))
				}
			},
		})
		if len(shares) > 0 && u.Close() == nil {
			t.Fatal("closed while a share is out")
		}
		for len(shares) > 0 {
			release(0)
		}
		if err := errors.Join(u.Close(), u.Close(), a.Close()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestSocketsShareTheFirst: who is asked to share with whom, and that memory
// outlives the sockets.
func TestSocketsShareTheFirst(t *testing.T) {
	a := newArena(t)
	u, err := New(a, 1)
	if err != nil {
		t.Fatal(err)
	}
	bind := func(fd, wantShared int, fail error) {
		t.Helper()
		if err := u.Bind(func(shared *Binding) (Binding, error) {
			if (shared == nil) != (wantShared < 0) || shared != nil && shared.FD != wantShared {
				t.Errorf("socket %d shares with %+v, want %d", fd, shared, wantShared)
			}
			return Binding{FD: fd}, fail
		}); err != fail {
			t.Error(err)
		}
	}
	unbind := func(fd int) {
		t.Helper()
		if err := u.Unbind(fd, func() error { return nil }); err != nil {
			t.Error(err)
		}
	}
	bind(7, -1, errors.New("refused"))
	bind(8, -1, nil)
	bind(9, 8, nil)
	unbind(8)
	bind(10, 9, nil)
	if u.Close() == nil {
		t.Error("closed under two sockets")
	}
	unbind(9)
	unbind(10)
	if err := errors.Join(u.Close(), a.Close()); err != nil {
		t.Error(err)
	}
	if u.Bind(func(*Binding) (Binding, error) { return Binding{FD: 1}, nil }) == nil {
		t.Error("a socket was bound to memory that is gone")
	}
}

func TestSizesAreChecked(t *testing.T) {
	a := newArena(t)
	for _, n := range []int{-1, 0, 4<<20/ChunkBytes + 1} {
		if _, err := New(a, n); err == nil {
			t.Errorf("a UMEM of %d chunks in an arena of 4 MiB", n)
		}
	}
	u, err := New(a, 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Cut(0); err == nil {
		t.Error("a share of no chunks")
	}
	if err := errors.Join(u.Close(), a.Close()); err != nil {
		t.Fatal(err)
	}
}
