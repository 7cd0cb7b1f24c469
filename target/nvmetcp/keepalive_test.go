package nvmetcp

import (
	"testing"
	"time"

	"blockd.dev/blockdev/arena"
	"blockd.dev/target/nvme"
)

// A tick that comes late by the fault of this machine ends no controller; one in
// time ends that of a silent host.
func TestLateKeepAliveTick(t *testing.T) {
	const nqn = "nqn.2014-08.org.nvmexpress:uuid:11111111-1111-4111-8111-111111111111"
	ar, err := arena.New(arena.Config{SizeBytes: 1 << 20, HugePages: arena.Off})
	if err != nil {
		t.Fatal(err)
	}
	defer ar.Close()
	now := time.Now()
	sub, err := nvme.NewSubsystem(nvme.Config{NQN: nqn, Serial: "1", Hosts: []string{nqn}},
		nvme.Deps{Arena: ar, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	s := &Server{subsystem: sub}
	if _, status, _ := sub.Connect(&nvme.ConnectRequest{SubNQN: nqn, HostNQN: nqn, CNTLID: 0xffff, SQSize: 31, KATO: 2000,
		Closed: func(error) {}}); status != nvme.Success {
		t.Fatal(status)
	}
	tick := func(late time.Duration, want int) {
		t.Helper()
		due := now
		now = now.Add(late)
		next := s.keepAlive(due, now)
		if got := len(sub.Controllers()); got != want {
			t.Fatalf("a tick %v late: %d controllers, want %d", late, got, want)
		}
		if !next.After(now) {
			t.Fatalf("the next tick is due at once")
		}
	}
	tick(0, 1)
	tick(3*time.Second, 1)
	now = now.Add(1900 * time.Millisecond)
	tick(0, 1)
	now = now.Add(200 * time.Millisecond)
	tick(0, 0)
}
