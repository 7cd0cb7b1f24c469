package daemon

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"blockd.dev/blockdev"
)

func TestScrubNotes(t *testing.T) {
	path := filepath.Join(t.TempDir(), fileScrubs)
	n, err := openScrubNotes(path)
	if err != nil {
		t.Fatal(err)
	}
	now, week := time.Now(), 7*24*time.Hour
	first, err := n.get("disk a")
	if err != nil || first.due(now, week) || !first.due(now.Add(week+time.Minute), week) {
		t.Errorf("a disk that was never seen: %+v, %v; want it to be due in a week", first, err)
	}
	if !first.due(now.Add(-2*scrubAhead), week) {
		t.Error("a round that ended while the clock was ahead holds up the next one")
	}
	first.At = 5
	if err := n.put("disk a", first); err != nil {
		t.Fatal(err)
	}
	if _, err := n.get("volume b"); err != nil {
		t.Fatal(err)
	}

	again, err := openScrubNotes(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := again.peek("disk a"); got.At != 5 || !got.Since.Equal(first.Since) || !got.due(now, week) {
		t.Errorf("after a restart: %+v, want %+v, which is due", got, first)
	}
	if err := again.keep(func(name string) bool { return name == "disk a" }); err != nil {
		t.Fatal(err)
	}
	if again, err = openScrubNotes(path); err != nil || len(again.all) != 1 {
		t.Errorf("%v, %v; want the disk only", again.all, err)
	}

	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err = openScrubNotes(path); err == nil || len(again.all) != 0 {
		t.Errorf("a damaged file: %v, %v", again.all, err)
	}
	if _, err := again.get("disk a"); err != nil {
		t.Errorf("it is not begun anew: %v", err)
	}
}

// A scrub of a disk that a stop has ended goes on where it was, and when the last
// one ended is known after a restart.
func TestScrubGoesOnAfterARestart(t *testing.T) {
	cfg := testConfig(t.TempDir())
	const size = 1 << 20 // of each of two volumes
	cfg.ScrubRate = size // so that there is a second to end the scrub in the second one
	d := start(t, cfg)
	for _, name := range []string{"v", "w"} {
		mustCtl(t, d, "volume", "create", name, "--size", "1GiB")
		if err := blockdev.WriteAt(volumeDevice(t, d, name), bytes.Repeat([]byte("x"), size), 0); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.scrubOnce(ctx, d.disks[0])
	}()
	until(t, "the scrub to be at the second volume", func() bool { return d.disks[0].scrub.get().bytes > size })
	cancel()
	<-done
	before := d.disks[0].scrub.get()
	if before.bytes == 2*size {
		t.Fatal("it came to the end")
	}
	stop(t, d)

	d = start(t, cfg)
	on := d.disks[0]
	if got := on.scrub.get().at; got != before.at || !d.scrubDue(on.scrubName(), &on.scrub) {
		t.Errorf("after a restart it is at byte %d and due %v, want %d and due", got, d.scrubDue(on.scrubName(), &on.scrub), before.at)
	}
	d.cfg.ScrubRate = 0
	d.scrubDisk(t.Context(), on)
	if s := on.scrub.get(); s.bytes != 2*size-before.bytes || s.rounds != 1 || s.lastFinished.IsZero() || s.at != 0 {
		t.Errorf("it went on with %+v, want the %d bytes that were left", s, 2*size-before.bytes)
	}
	ended := on.scrub.get().lastFinished
	d.scrubDisk(t.Context(), on)
	if s := on.scrub.get(); s.rounds != 1 {
		t.Error("the next round began before it was due")
	}
	stop(t, d)

	d = start(t, cfg)
	if got := d.disks[0].scrub.get().lastFinished; !got.Equal(ended) {
		t.Errorf("the last round ended %v, want %v", got, ended)
	}
}
