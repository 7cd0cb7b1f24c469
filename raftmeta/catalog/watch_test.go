package catalog

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"blockd.dev/raftmeta/pki"
)

// A watcher sees every change in order, whenever it looks, and can go on from
// a revision on another member.
func TestWatch(t *testing.T) {
	m := openMember(t, t.TempDir(), pki.NewKeyring())
	defer m.close(t)
	m.do(t, initCmd(), poolCmd(1, "default"))
	w := m.Watch(m.State().Revision)
	type got struct {
		list []Change
		err  error
	}
	seen := make(chan got)
	go func() {
		var all []Change
		for len(all) < 3 {
			list, s, err := w.Next(t.Context())
			if err != nil || s.Revision < list[len(list)-1].Revision {
				seen <- got{all, fmt.Errorf("%v: %w", s, err)}
				return
			}
			all = append(all, list...)
		}
		seen <- got{all, nil}
	}()
	m.do(t, volumeCmd(10, "a"))
	if _, err := m.Do(volumeCmd(10, "a")); err == nil {
		t.Fatal("made twice")
	}
	m.do(t, reserveCmd(10, 0, "x"))
	g := <-seen
	want := []Change{{3, "volume.create", "a", false}, {4, "create_volume", "", true}, {5, "volume.reserve", "a", false}}
	if g.err != nil || fmt.Sprint(g.list) != fmt.Sprint(want) {
		t.Fatalf("%v, %v", g.list, g.err)
	}
	if list, _, err := m.Watch(3).Next(t.Context()); err != nil || len(list) != 2 || list[0].Revision != 4 {
		t.Fatal(list, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	for _, after := range []uint64{5, 50} { // nothing new; from a member that is ahead
		if _, _, err := m.Watch(after).Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	}
}

// Who is too slow, or was away while the state came as a whole, is told so.
func TestSlowWatchersAreTold(t *testing.T) {
	f := NewFSM()
	c := New(f, nil, nil)
	apply := func(b []byte) { f.Apply(0, 0, 1, b) }
	apply(must(proto.Marshal(initCmd())))
	slow, quick := c.Watch(0), c.Watch(0)
	relabel := must(proto.Marshal(resizeCmd("nothing", 1<<30))) // refused, which is a revision too
	for range changesMax {
		apply(relabel)
	}
	if _, _, err := slow.Next(t.Context()); !errors.Is(err, ErrTooOld) {
		t.Fatal(err)
	}
	if list, s, err := c.Watch(1).Next(t.Context()); err != nil || len(list) != changesMax || list[0].Revision != 2 || s.Revision != changesMax+1 {
		t.Fatal(len(list), err)
	}
	if err := f.Restore(pipe(t, mustApply(t, f.State(), poolCmd(1, "default")))); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, _, err := quick.Next(t.Context()); !errors.Is(err, ErrTooOld) {
			t.Fatal(err)
		}
	}
	from := c.Watch(f.State().Revision)
	apply(must(proto.Marshal(volumeCmd(10, "a"))))
	if list, _, err := from.Next(t.Context()); err != nil || len(list) != 1 || list[0].Subject != "a" {
		t.Fatal(list, err)
	}
}
