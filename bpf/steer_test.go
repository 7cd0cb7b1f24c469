package bpf

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
)

var (
	localV4 = netip.MustParseAddr("10.9.0.1")
	localV6 = netip.MustParseAddr("fd00:9::1")
	peerV4  = netip.MustParseAddr("10.9.0.2")
	peerV6  = netip.MustParseAddr("fd00:9::2")
	other   = netip.MustParseAddr("10.9.0.3")
)

const port = 7700

func TestAttachInEachMode(t *testing.T) {
	enterNetns(t)
	a, _ := vethPair(t, 2)
	for _, mode := range []Mode{Auto, Native, Generic} {
		s, err := LoadSteer(Config{Interface: a.Attrs().Index, Port: port, Local: []netip.Addr{localV4}, Mode: mode})
		if err != nil {
			t.Fatalf("%v: %v", mode, err)
		}
		want := mode
		if mode == Auto {
			want = Native
		}
		if s.Mode() != want || !s.Frags() || s.Queues() != 2 {
			t.Errorf("%v: runs as %v, frags %v, %d queues; want %v, true, 2", mode, s.Mode(), s.Frags(), s.Queues(), want)
		}
		second, err := LoadSteer(Config{Interface: a.Attrs().Index, Port: port, Local: []netip.Addr{localV4}, Mode: mode})
		if !errors.Is(err, ErrBusy) || !strings.Contains(err.Error(), "steer") {
			t.Errorf("%v: a second program: %v, %v; want ErrBusy, and who is there", mode, second, err)
		}
		if err := s.Close(); err != nil {
			t.Errorf("%v: close: %v", mode, err)
		}
	}
}
