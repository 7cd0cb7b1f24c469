package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/store"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
)

// outage is a cluster of three nodes with two disks each, whose machines all go down at once, and come
// up again with what their disks had at times of the test's choice.
type outage struct {
	t     *testing.T
	admin admin
	nodes []*testNode
	boots byte
}

func newOutage(t *testing.T) *outage {
	o := &outage{t: t, boots: 1}
	o.admin, o.nodes, _ = threeOfTwo(t, func(c *Config) { c.boot, c.RebuildAfter = store.Boot{1}, time.Hour })
	return o
}

// image copies what a disk has. Nothing but the end of the store's log may be written meanwhile.
func (o *outage) image(disk string) (path string) {
	o.t.Helper()
	path = filepath.Join(o.t.TempDir(), "image")
	if err := copySparse(path, disk); err != nil {
		o.t.Fatal(err)
	}
	return path
}

// down takes the power away, and returns what each disk had then. The nodes of a test can't but stop as if
// nothing had happened, so what they do after that must come to nothing: the group ends before, so
// that nobody is marked out, and their disks get the images of before that when they come up.
func (o *outage) down() (images map[string]string) {
	o.t.Helper()
	for _, n := range o.nodes {
		if err := n.Daemon().plane.group.Close(); err != nil {
			o.t.Fatal(err)
		}
	}
	images = map[string]string{}
	for _, n := range o.nodes {
		for _, d := range n.cfg.Disks {
			images[d] = o.image(d)
		}
	}
	var stopping sync.WaitGroup
	for _, n := range o.nodes {
		stopping.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			n.down = true
			_ = n.Stop(ctx) // it has no group to take leave of
		})
	}
	stopping.Wait()
	return images
}

// up starts all nodes in another boot of their machines, with these images for disks. Disks without are gone.
func (o *outage) up(images map[string]string) {
	o.t.Helper()
	o.boots++
	var starting sync.WaitGroup
	for _, n := range o.nodes {
		n.cfg.boot = store.Boot{o.boots}
		for _, d := range n.cfg.Disks {
			err := os.Remove(d)
			if image := images[d]; err == nil && image != "" {
				err = copySparse(d, image)
			}
			if err != nil {
				o.t.Fatal(err)
			}
		}
		starting.Go(n.start)
	}
	starting.Wait()
}

// diskOf is the disk of a node that a volume is on.
func (o *outage) diskOf(n *testNode, id catalog.ID) (path, name string) {
	o.t.Helper()
	s := n.Daemon().catalog.State()
	for _, r := range s.Replicas(id) {
		if on := n.Daemon().diskWith(r.DiskID); on != nil {
			return on.path, diskName(s, r.DiskID)
		}
	}
	o.t.Fatalf("%s has no copy", n.cfg.Name)
	return "", ""
}

func (o *outage) write(fill byte, off int64) {
	o.t.Helper()
	if err := writeAsHosts(volumeDevice(o.t, o.nodes[0].Daemon(), "v"), bytes.Repeat([]byte{fill}, 8192), off); err != nil {
		o.t.Fatal(err)
	}
}

// reads checks what each node reads, by offset.
func (o *outage) reads(want map[int64]byte) {
	o.t.Helper()
	for _, n := range o.nodes {
		for off, fill := range want {
			got := make([]byte, 8192)
			err := blockdev.ReadAt(volumeDevice(o.t, n.Daemon(), "v"), got, off)
			for errors.Is(err, blockdev.ErrBusy) {
				err = blockdev.ReadAt(volumeDevice(o.t, n.Daemon(), "v"), got, off)
			}
			if err != nil || !bytes.Equal(got, bytes.Repeat([]byte{fill}, 8192)) {
				o.t.Errorf("through %s at %d: %v, %#x, want %#x", n.cfg.Name, off, err, got[0], fill)
			}
		}
	}
}

// told waits until the events of a kind at any node have these words.
func (o *outage) told(kind string, words ...string) {
	o.t.Helper()
	until(o.t, kind+" tells of "+strings.Join(words, ", "), func() bool {
		for _, n := range o.nodes {
			list, _ := n.Daemon().events.after(0)
			for _, e := range list {
				if e.kind == kind && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(e.message, w) }) {
					return true
				}
			}
		}
		return false
	})
}

func copySparse(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	err = out.Truncate(st.Size())
	buf, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for off := int64(0); err == nil && off < st.Size(); {
		var n int
		if n, err = in.ReadAt(buf, off); err == nil || errors.Is(err, io.EOF) {
			err = nil
			if !bytes.Equal(buf[:n], zero[:n]) {
				_, err = out.WriteAt(buf[:n], off)
			}
		}
		off += int64(n)
	}
	return errors.Join(err, out.Close())
}

// A disk comes back without what it had said to be durable, after the power has failed everywhere: no
// host sees that, an event tells it, and the disk gets back what it has lost.
func TestADiskLosesWhatItHadSaidToBeDurable(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	id := sharedVolumeOn(t, o.admin, o.nodes, "v")
	until(t, "all copies are in sync", func() bool { return inSync(o.nodes[0], id) == 3 })
	for i := range int64(4) {
		o.write(1, i<<20)
	}
	liar, name := o.diskOf(o.nodes[1], id)
	before := o.image(liar)
	for i := range int64(3) {
		o.write(2, i<<20)
	}
	o.write(3, 10<<20)
	images := o.down()
	images[liar] = before
	o.up(images)

	o.reads(map[int64]byte{0: 2, 1 << 20: 2, 2 << 20: 2, 3 << 20: 1, 10 << 20: 3})
	o.told("disk.lost-data", "disk "+name+" had lost", "regions of volume v", "replace the disk")
	owner := ownerOf(t, o.nodes, id)
	v := owner.Daemon().shared.Load().sharedVolume(id)
	until(t, "all copies are in sync, and proven", func() bool {
		return inSync(owner, id) == 3 && !slices.ContainsFunc(v.told(time.Now()).GetReplicas(), (*blockdv1.Replica).GetUnproven)
	})
	for _, n := range o.nodes {
		if words := strings.Join(opsAt(o.admin, n).explained(t, "v").GetBecause(), "\n"); !strings.Contains(words, "disk "+name+" had lost") {
			t.Errorf("%s explains: %s", n.cfg.Name, words)
		}
	}
	v.scrubOnce(t.Context())
	if n := v.scrub.differ.Load(); n != 0 || v.scrub.get().rounds == 0 {
		t.Errorf("%d regions differ between the copies", n)
	}
}

// The power has failed everywhere, and one disk alone comes back, of which nobody knows whether it has lost
// something: the volume waits, and says for whom. When the others are gone for good, an administrator has it go on.
func TestADiskAloneIsTrustedByAnAdministrator(t *testing.T) {
	t.Parallel()
	o := newOutage(t)
	id := sharedVolumeOn(t, o.admin, o.nodes, "v")
	until(t, "all copies are in sync", func() bool { return inSync(o.nodes[0], id) == 3 })
	o.write(1, 0)
	trust := func(n *testNode, dry bool) ([]string, error) {
		r, err := opsAt(o.admin, n).volume.TrustVolume(t.Context(), connect.NewRequest(&blockdv1.TrustVolumeRequest{Name: "v", DryRun: dry}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetChanges(), nil
	}
	_, err := trust(o.nodes[1], false)
	refusedWith(t, err, connect.CodeFailedPrecondition, "waits for a disk that can tell")
	_, left := o.diskOf(o.nodes[0], id)
	second, awaited := o.diskOf(o.nodes[1], id)
	third, _ := o.diskOf(o.nodes[2], id)
	images := o.down()
	delete(images, second)
	delete(images, third)
	o.up(images)

	o.told("volume.unsure", "64MiB of it wait: disk "+left+",", "disk "+awaited, "blockctl volume trust v")
	for _, n := range o.nodes {
		until(t, n.cfg.Name+" says what the volume waits for", func() bool {
			e := opsAt(o.admin, n).explained(t, "v")
			return e.GetState() == "stuck" && strings.Contains(strings.Join(e.GetBecause(), "\n"), "disk "+awaited) && strings.Contains(strings.Join(e.GetAdvice(), "\n"), "volume trust v")
		})
		v := must[blockdv1.GetVolumeResponse](t)(opsAt(o.admin, n).volume.GetVolume(t.Context(), connect.NewRequest(&blockdv1.GetVolumeRequest{Name: "v"}))).GetVolume()
		if v.GetUnsureBytes() != 64<<20 || v.GetState() != "stuck" || !strings.Contains(v.GetReason(), "may have lost") {
			t.Errorf("%s shows %v", n.cfg.Name, v)
		}
	}
	asked := o.nodes[0] // not the owner, if there is a choice
	if v := asked.Daemon().shared.Load().sharedVolume(id); v.Status().Owner {
		asked = o.nodes[1]
	}
	if changes, err := trust(asked, true); err != nil || len(changes) != 2 || !strings.Contains(changes[1], awaited) {
		t.Errorf("%q, %v", changes, err)
	}
	if _, err := trust(asked, false); err != nil {
		t.Fatal(err)
	}
	owner := ownerOf(t, o.nodes, id)
	if n := inSync(owner, id); n != 1 {
		t.Errorf("%d copies are in sync", n)
	}
	got := make([]byte, 8192)
	if err := blockdev.ReadAt(volumeDevice(t, owner.Daemon(), "v"), got, 0); err != nil || got[0] != 1 {
		t.Errorf("%v, %#x", err, got[0])
	}
	o.told("volume.unsure", "nothing of it waits any more")
	if last := lastAudit(owner, "volume.trust"); last == nil || last.Subject != "v" || !strings.Contains(last.Detail, awaited) {
		t.Errorf("the audit log has %+v", last)
	}
}

// lastAudit is the last entry of the audit log about an action.
func lastAudit(n *testNode, action string) *catalog.Audit {
	audits := n.Daemon().catalog.State().Audits
	for i := len(audits) - 1; i >= 0; i-- {
		if audits[i].Action == action {
			return &audits[i]
		}
	}
	return nil
}
