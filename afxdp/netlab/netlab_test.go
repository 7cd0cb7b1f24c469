package netlab

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestHostsReachEachOther by TCP, over every kind of wire and both families.
func TestHostsReachEachOther(t *testing.T) {
	for _, c := range []Config{{}, {Bridge: true, MTU: 9000, Queues: 2}} {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			l, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			for _, addr := range []netip.Addr{l.B.IPv4, l.B.IPv6} {
				if err := hello(l, addr); err != nil {
					t.Errorf("%v: %v", addr, err)
				}
			}
		})
	}
}

// hello sends a line from A to B.
func hello(l *Lab, to netip.Addr) error {
	var listener net.Listener
	if err := l.B.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(to, 0).String())
		return
	}); err != nil {
		return err
	}
	defer listener.Close()
	sent := make(chan error, 1)
	go func() {
		sent <- l.A.Do(func() error {
			// Not net.Dial, which may connect on another thread.
			c, err := (&net.Dialer{Timeout: 5 * time.Second, FallbackDelay: -1}).Dial("tcp", listener.Addr().String())
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("hello\n"))
			return err
		})
	}()
	c, err := listener.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	line, err := bufio.NewReader(c).ReadString('\n')
	if line != "hello\n" {
		err = fmt.Errorf("got %q: %w", line, err)
	}
	return errors.Join(err, <-sent)
}
