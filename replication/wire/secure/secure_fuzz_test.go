package secure_test

import (
	"net/netip"
	"testing"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire"
	"blockd.dev/replication/wire/secure"
	"blockd.dev/replication/wire/secure/securetest"
)

// A server takes whatever a stranger sends as a first flight, in two pieces,
// without a panic, and is never done with it.
func FuzzServerHandshake(f *testing.F) {
	pki := securetest.New("east", "1")
	c, err := secure.NewClient(config(pki.Node("a")))
	if err != nil {
		f.Fatal(err)
	}
	if err := c.Start(nil); err != nil {
		f.Fatal(err)
	}
	hello, _ := c.Next()
	c.Close()
	f.Add(hello.Data, uint16(len(hello.Data)), uint8(0))
	f.Add(hello.Data, uint16(100), uint8(0))
	f.Add([]byte{1, 0, 0, 0}, uint16(0), uint8(1))
	server := config(pki.Node("b"))
	f.Fuzz(func(t *testing.T, data []byte, cut uint16, level uint8) {
		s, err := secure.NewServer(server)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		at := min(int(cut), len(data))
		if err := s.Start(nil); err != nil {
			t.Fatal(err)
		}
		if s.Receive(wire.LevelInitial, data[:at]) == nil {
			_ = s.Receive(wire.Level(level%4), data[at:])
		}
		for {
			step, ok := s.Next()
			if !ok {
				break
			}
			if step.Kind == wire.StepDone {
				t.Fatal("done without a certificate")
			}
		}
	})
}

// Nobody without the key makes a packet that opens.
func FuzzOpen(f *testing.F) {
	c, s := connected(f)
	p, h := packet(3, "payload")
	sealed := c.sealers[wire.LevelData].Seal(p, h, 3)
	f.Add(sealed[:len(sealed)-1], uint8(h), uint64(3))
	f.Add(sealed, uint8(h), uint64(4))
	opener := s.openers[wire.LevelData]
	f.Fuzz(func(t *testing.T, data []byte, header uint8, number uint64) {
		if string(data) == string(sealed) && int(header) == h && number == 3 {
			return // the one true packet
		}
		headerLen := min(int(header), len(data))
		if got, ok := opener.Open(append([]byte(nil), data...), headerLen, number); ok {
			t.Fatalf("opened %x", got)
		}
	})
}

// No token but those issued is taken.
func FuzzRetryToken(f *testing.F) {
	now := clock.Mono(1e12)
	tokens := secure.NewRetryTokens(now)
	here := netip.MustParseAddrPort("10.0.0.1:9000")
	true1 := tokens.Append(nil, now, here, nil)
	f.Add(true1[:len(true1)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, token []byte) {
		if string(token) != string(true1) && tokens.Valid(now, here, nil, token) {
			t.Fatalf("took %x", token)
		}
	})
}
