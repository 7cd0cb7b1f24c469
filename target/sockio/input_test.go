package sockio

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func inputPair(t testing.TB) (*Input, io.WriteCloser) {
	t.Helper()
	c, peer := pair(t, Config{})
	in := &Input{}
	in.Init(c)
	return in, peer
}

// What arrives comes out in order and whole, however it is asked for: in the
// buffer, scattered into memory, or dropped, and saw sees every byte of it.
func TestInputGivesTheStreamHoweverItIsAskedFor(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		in, peer := inputPair(t)
		stream := make([]byte, 300<<10)
		for i := range stream {
			stream[i] = byte(i*31 + i>>8)
		}
		go func() {
			for rest := stream; len(rest) > 0; {
				n := min(len(rest), 1+len(rest)%9973)
				if _, err := peer.Write(rest[:n]); err != nil {
					return // the check has failed and closed the pair
				}
				rest = rest[n:]
			}
			_ = peer.Close()
		}()
		at := 0
		expect := func(got []byte) {
			if !bytes.Equal(got, stream[at:at+len(got)]) {
				rt.Fatalf("%d bytes at %d are not those that were sent", len(got), at)
			}
			at += len(got)
		}
		for at < len(stream) {
			left := len(stream) - at
			switch rapid.IntRange(0, 2).Draw(rt, "way") {
			case 0:
				n := min(left, rapid.IntRange(1, InputMax).Draw(rt, "need"))
				if err := in.Need(n); err != nil {
					rt.Fatal(err)
				}
				expect(in.Bytes()[:n])
				in.Use(n)
			case 1:
				n := min(left, rapid.IntRange(1, 100<<10).Draw(rt, "into"))
				cut := rapid.IntRange(0, n).Draw(rt, "cut")
				drop := rapid.IntRange(0, n-cut).Draw(rt, "drop")
				a, b := make([]byte, cut), make([]byte, n-cut-drop)
				var crc uint32
				if err := in.Into([][]byte{a, b}, n, func(p []byte) { crc = crc32.Update(crc, crc32.IEEETable, p) }); err != nil {
					rt.Fatal(err)
				}
				if want := crc32.ChecksumIEEE(stream[at : at+n]); crc != want {
					rt.Fatalf("saw did not see the %d bytes at %d", n, at)
				}
				expect(a)
				expect(b)
				at += drop
			case 2:
				if len(in.Bytes()) == 0 {
					if err := in.Fill(); err != nil {
						rt.Fatal(err)
					}
				}
				n := min(len(in.Bytes()), 100)
				expect(in.Bytes()[:n])
				in.Use(n)
			}
		}
		if err := in.Fill(); err != io.EOF {
			rt.Fatalf("at the end: %v", err)
		}
		_ = in.conn.Close()
	})
}

func TestInputTellsAnEndWithinSomething(t *testing.T) {
	for name, wait := range map[string]func(*Input) error{
		"need": func(in *Input) error { return in.Need(10) },
		"into": func(in *Input) error { return in.Into([][]byte{make([]byte, 10)}, 10, nil) },
		"drop": func(in *Input) error { return in.Into(nil, 10, nil) },
		"fill": func(in *Input) error { return errors.Join(in.Fill(), in.Fill()) },
	} {
		in, peer := inputPair(t)
		if _, err := peer.Write([]byte("part")); err != nil {
			t.Fatal(err)
		}
		_ = peer.Close()
		if err := wait(in); !errors.Is(err, io.ErrUnexpectedEOF) || !in.Within() {
			t.Errorf("%s: %v, within something: %v", name, err, in.Within())
		}
	}
}

// A full buffer of which nothing is used can't be filled: that is the caller's
// mistake, and must not be an endless loop.
func TestInputRefusesToFillAFullBuffer(t *testing.T) {
	in, peer := inputPair(t)
	if _, err := peer.Write(make([]byte, 2*inputSmall)); err != nil {
		t.Fatal(err)
	}
	if err := in.Need(inputSmall); err != nil {
		t.Fatal(err)
	}
	if err := in.Fill(); err == nil {
		t.Fatal("a full buffer was filled")
	}
}

// A connection grows its buffer while there is traffic and gives it up when it
// is told to, waking for that without an error and without losing a byte.
func TestInputMemoryFollowsTheTraffic(t *testing.T) {
	in, peer := inputPair(t)
	in.Live()
	in.Trim() // small already: nothing to give up
	chunk := make([]byte, 256<<10)
	go func() { _, _ = peer.Write(chunk) }() // a failure shows on the other side
	for got := 0; got < len(chunk); {
		if err := in.Fill(); err != nil {
			t.Fatal(err)
		}
		got += len(in.Bytes())
		in.Use(len(in.Bytes()))
	}
	if len(in.buf) != InputMax {
		t.Fatalf("the buffer of a busy connection has %d bytes", len(in.buf))
	}
	in.Trim()
	for len(in.buf) != inputSmall {
		if err := in.Fill(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := peer.Write([]byte("after")); err != nil {
		t.Fatal(err)
	}
	if err := in.Need(5); err != nil || string(in.Bytes()) != "after" {
		t.Fatalf("%q, %v", in.Bytes(), err)
	}
}

// Before Live a deadline is an error: it bounds a login.
func TestInputDeadlineIsAnErrorBeforeLive(t *testing.T) {
	in, _ := inputPair(t)
	if err := in.conn.SetReadDeadline(time.Now()); err != nil {
		t.Fatal(err)
	}
	if err := in.Fill(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a deadline before Live: %v", err)
	}
}

// Output waits while what has arrived is served, and is out before the reader
// waits again.
func TestInputHoldsBackOutput(t *testing.T) {
	in, peer := inputPair(t)
	if _, err := peer.Write([]byte("ab")); err != nil {
		t.Fatal(err)
	}
	if err := in.Need(2); err != nil {
		t.Fatal(err)
	}
	in.conn.Append([]byte("answer"), nil, nil, nil)
	in.conn.Flush()
	if got := in.conn.Stats().Writes; got != 0 {
		t.Fatalf("%d writes while serving", got)
	}
	in.Use(2)
	if _, err := peer.Write([]byte("c")); err != nil {
		t.Fatal(err)
	}
	if err := in.Fill(); err != nil {
		t.Fatal(err)
	}
	if got := in.conn.Stats().Writes; got != 1 {
		t.Fatalf("%d writes before the next read, want 1", got)
	}
}

func TestInputDoesNotAllocate(t *testing.T) {
	in, peer := inputPair(t)
	msg, into := make([]byte, 3000), make([]byte, 1000)
	segs := make([][]byte, 1)
	var sum int
	round := func() {
		if _, err := peer.Write(msg); err != nil {
			t.Fatal(err)
		}
		if err := in.Need(500); err != nil {
			t.Fatal(err)
		}
		in.Use(500)
		segs[0] = into
		if err := in.Into(segs, 2500, func(p []byte) { sum += len(p) }); err != nil {
			t.Fatal(err)
		}
	}
	round()
	if n := testing.AllocsPerRun(200, round); n >= 1 {
		t.Errorf("%.1f allocations per message", n)
	}
}
