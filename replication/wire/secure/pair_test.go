package secure_test

import (
	"errors"
	"fmt"
	"testing"

	"blockd.dev/replication/wire"
	"blockd.dev/replication/wire/secure"
	"blockd.dev/replication/wire/secure/securetest"
)

// end is one side of a handshake with what it has got so far.
type end struct {
	*secure.Handshake
	sealers    [wire.LevelData + 1]wire.Sealer
	openers    [wire.LevelData + 1]wire.Opener
	peer       secure.Peer
	parameters string
	done       bool
}

// pump takes e's steps, and returns what it wants to send.
func (e *end) pump() (sends []wire.Step) {
	for {
		step, ok := e.Next()
		if !ok {
			return sends
		}
		if e.done {
			panic("a step after StepDone, which a Conn may take as the last")
		}
		switch step.Kind {
		case wire.StepSend:
			sends = append(sends, step)
		case wire.StepSealer:
			e.sealers[step.Level] = step.Sealer
		case wire.StepOpener:
			e.openers[step.Level] = step.Opener
		case wire.StepParams:
			e.parameters = string(step.Data)
		case wire.StepDone:
			e.done, e.peer = true, step.Peer.(secure.Peer)
		}
	}
}

// config is what most tests use for node id.
func config(creds *secure.Credentials) secure.Config {
	return secure.Config{Credentials: creds, Now: securetest.Epoch, Versions: []string{"blockd/1"}}
}

// pair makes two ends that have not spoken yet.
func pair(t testing.TB, client, server secure.Config) (c, s *end) {
	t.Helper()
	ch, err := secure.NewClient(client)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ch.Close)
	sh, err := secure.NewServer(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sh.Close)
	if err := errors.Join(ch.Start([]byte("from "+nameOf(client))), sh.Start([]byte("from "+nameOf(server)))); err != nil {
		t.Fatal(err)
	}
	return &end{Handshake: ch}, &end{Handshake: sh}
}

func nameOf(c secure.Config) string {
	id, _ := c.Credentials.Self()
	return id.Node
}

// shake lets c and s talk until neither has more to say. through may change or
// cut what travels; nil is a plain wire. The error names the side that gave up.
func shake(c, s *end, through func(fromClient bool, level wire.Level, data []byte) [][]byte) (err error, byClient bool) {
	if through == nil {
		through = func(_ bool, _ wire.Level, data []byte) [][]byte { return [][]byte{data} }
	}
	for {
		fromC := c.pump()
		fromS := s.pump()
		if len(fromC)+len(fromS) == 0 {
			return nil, false
		}
		for _, o := range fromC {
			for _, d := range through(true, o.Level, o.Data) {
				if err := s.Receive(o.Level, d); err != nil {
					return err, false
				}
			}
		}
		for _, o := range fromS {
			for _, d := range through(false, o.Level, o.Data) {
				if err := c.Receive(o.Level, d); err != nil {
					return err, true
				}
			}
		}
	}
}

// connected is a pair of nodes a and b that have shaken hands.
func connected(t testing.TB) (c, s *end) {
	t.Helper()
	pki := securetest.New("east", "1")
	c, s = pair(t, config(pki.Node("a")), config(pki.Node("b")))
	if err, _ := shake(c, s, nil); err != nil {
		t.Fatal(err)
	}
	if !c.done || !s.done {
		t.Fatalf("no error, and yet client done %v, server done %v", c.done, s.done)
	}
	return c, s
}

// packet is a header that says its own number, and a payload.
func packet(number uint64, payload string) (p []byte, headerLen int) {
	header := fmt.Sprintf("%08x", number)
	p = make([]byte, 0, len(header)+len(payload)+16)
	return append(append(p, header...), payload...), len(header)
}
