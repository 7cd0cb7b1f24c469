package sockio

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
)

// script is a listener that answers Accept with one step after the other.
type script struct {
	net.Listener
	steps []func() (net.Conn, error)
}

func (s *script) Accept() (net.Conn, error) {
	step := s.steps[0]
	s.steps = s.steps[1:]
	return step()
}

// A shortage is waited out; a listener that fails, or that is of the wrong
// kind, ends Accept with what happened.
func TestAcceptOutlivesAShortage(t *testing.T) {
	_, conn := pair(t, Config{})
	broken := errors.New("broken")
	taken := 0
	take := func(*net.TCPConn) { taken++ }
	ln := &script{steps: []func() (net.Conn, error){
		func() (net.Conn, error) { return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE} },
		func() (net.Conn, error) { return conn, nil },
		func() (net.Conn, error) { return nil, broken },
	}}
	if err := Accept(ln, make(chan struct{}), take); err != broken || taken != 1 {
		t.Fatalf("%v after %d connections", err, taken)
	}
	pipe, other := net.Pipe()
	defer other.Close()
	ln.steps = append(ln.steps, func() (net.Conn, error) { return pipe, nil })
	if err := Accept(ln, make(chan struct{}), take); err == nil || !strings.Contains(err.Error(), "TCP") || taken != 1 {
		t.Fatalf("a pipe: %v after %d connections", err, taken)
	}
}

// Once stopped, Accept takes nothing, neither a connection that is there nor
// the error of the listener that is closed; also while it waits out a shortage.
func TestAcceptStops(t *testing.T) {
	stop := make(chan struct{})
	ln := &script{steps: []func() (net.Conn, error){
		func() (net.Conn, error) { close(stop); return nil, net.ErrClosed },
	}}
	take := func(*net.TCPConn) { t.Error("a connection was taken") }
	if err := Accept(ln, stop, take); err != nil {
		t.Fatal(err)
	}
	_, conn := pair(t, Config{})
	ln.steps = append(ln.steps, func() (net.Conn, error) { return conn, nil })
	if err := Accept(ln, stop, take); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the connection was left open: %v", err)
	}
	late := make(chan struct{})
	ln.steps = append(ln.steps, func() (net.Conn, error) {
		defer func() { go close(late) }()
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}, func() (net.Conn, error) { <-late; return nil, net.ErrClosed })
	if err := Accept(ln, late, take); err != nil {
		t.Fatal(err)
	}
}
