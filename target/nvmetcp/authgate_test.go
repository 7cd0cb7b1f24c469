package nvmetcp

import (
	"sync"
	"testing"

	"blockd.dev/target/auth"
)

// Connections that have not proved themselves compute one at a time, as the
// limit says; the end of the server ends the wait.
func TestAuthGate(t *testing.T) {
	s := &Server{authGate: make(authGate, 1)}
	s.mu.stop = make(chan struct{})
	waiting := func() *conn { return &conn{srv: s, auth: auth.NewDHController(auth.NVMePolicy{}, "h", "s")} }
	inside, leave := make(chan int), make(chan struct{})
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			waiting().pass(func() { inside <- i; <-leave })
		})
	}
	for range 4 {
		<-inside
		select {
		case i := <-inside:
			t.Errorf("connection %d computes beside another", i)
		case s.authGate <- struct{}{}:
			t.Error("the gate is open while one computes")
		default:
		}
		leave <- struct{}{}
	}
	wg.Wait()

	s.authGate <- struct{}{} // somebody computes for ever
	close(s.mu.stop)
	if waiting().pass(func() { t.Error("it computes after the end") }) {
		t.Error("it passes after the end")
	}
}
