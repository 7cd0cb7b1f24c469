package nvme

import (
	"testing"
	"time"
)

// What hosts do is counted: by command, by status, by event, also after their
// controllers are gone.
func TestStats(t *testing.T) {
	b := newBed(t)
	h := b.host
	base := b.sub.Stats()
	h.want(Success, rw(OpWrite, 0, 4, 0), fill(4*bedBlock, 1), 0)
	h.want(Success, rw(OpRead, 0, 2, 0), nil, 2*bedBlock)
	h.want(Success, rw(OpRead, 0, 2, 0), nil, 2*bedBlock)
	h.want(LBAOutOfRange|DNR, rw(OpRead, bedBlocks, 1, 0), nil, bedBlock)
	h.want(InvalidOpcode|DNR, rw(0x7e, 0, 1, 0), nil, 0)
	x := h.aer()
	b.ram.SetReadOnly(true)
	x.wantEvent(eventNamespace)
	discover(b, hostB)
	now := b.sub.Stats()
	if now.Controllers != 1 || now.Discovery != 1 || now.IOQueues != 1 {
		t.Errorf("%d controllers, %d of discovery, %d I/O queues", now.Controllers, now.Discovery, now.IOQueues)
	}
	if now.ReadBytes-base.ReadBytes != 4*bedBlock || now.WriteBytes-base.WriteBytes != 4*bedBlock {
		t.Errorf("%d bytes read, %d written", now.ReadBytes, now.WriteBytes)
	}
	commands := func(st Stats) map[string]uint64 {
		m := map[string]uint64{}
		for _, c := range st.Commands {
			m[c.Set+"/"+c.Name] = c.Count
		}
		return m
	}
	before, after := commands(base), commands(now)
	for name, want := range map[string]uint64{"io/Write": 1, "io/Read": 3, "/": 1, "io/Flush": 0, "admin/Asynchronous Event Request": 1} {
		if got := after[name] - before[name]; got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
	}
	failed := map[Status]uint64{}
	for _, e := range now.Errors {
		failed[e.Status] = e.Count
	}
	if len(failed) != 2 || failed[LBAOutOfRange] != 1 || failed[InvalidOpcode] != 1 {
		t.Errorf("errors: %v", now.Errors)
	}
	if e := now.Events[eventNamespace]; e.Kind != "namespace" || e.Count != 1 {
		t.Errorf("events: %v", now.Events)
	}
	b.after(time.Hour) // both hosts are silent
	b.after(time.Hour)
	end := b.sub.Stats()
	if end.Controllers != 0 || end.KeepAliveTimeouts != 2 {
		t.Errorf("%d controllers left, %d timeouts", end.Controllers, end.KeepAliveTimeouts)
	}
	if got := commands(end); got["io/Read"] != after["io/Read"] {
		t.Errorf("reads are forgotten: %v", got)
	}
}
