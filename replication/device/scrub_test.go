package device_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/store"
	"blockd.dev/replication/device"
)

// rot flips a bit wherever a node's disk has block, in the log too. Everything is
// brought home first, so that the store reads it from there. No host may write.
func (n *node) rot(block []byte) {
	t := n.c.TB
	t.Helper()
	if err := n.store.Checkpoint(); err != nil {
		t.Fatal(err)
	}
	io := func(op disk.Op, off int64, p []byte) {
		done := make(chan error, 1)
		n.anyDisk().Submit([]*disk.IO{{Op: op, Off: off, Bufs: [][]byte{p}, Done: func(io *disk.IO) { done <- io.Err }}})
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	times := 0
	p := disk.NewAligned(1 << 20)
	for off := int64(0); off < n.anyDisk().SizeBytes(); off += int64(len(p)) {
		io(disk.Read, off, p)
		for at := 0; at < len(p); at += blockBytes {
			if b := p[at : at+blockBytes]; bytes.Equal(b, block) {
				b[1000] ^= 4
				io(disk.Write, off+int64(at), b)
				times++
			}
		}
	}
	if times == 0 {
		t.Fatalf("the disk of %s has not the block", n.id)
	}
}

// stored does an op with the copy of a node, behind the back of the owner.
func (n *node) stored(kind store.OpKind, off int64, p []byte) error {
	t := n.c.TB
	t.Helper()
	v, err := n.store.OpenVolume(volumeID)
	if err != nil {
		t.Fatal(err)
	}
	defer n.store.CloseVolume(v)
	done := make(chan struct{})
	op := &store.Op{Kind: kind, Vol: v, Off: off, Len: len(p), Data: [][]byte{p}, Done: func(*store.Op) { close(done) }}
	n.store.Submit([]*store.Op{op})
	<-done
	return op.Err
}

// wantEqual compares all copies of the volume.
func (c *cluster) wantEqual() {
	c.Helper()
	first, other := disk.NewAligned(1<<20), disk.NewAligned(1<<20)
	for off := int64(0); off < volumeBytes; off += int64(len(first)) {
		for i, n := range c.nodes {
			p := other
			if i == 0 {
				p = first
			}
			if err := n.stored(store.OpRead, off, p); err != nil {
				c.Fatalf("the copy of %s at %d: %v", n.id, off, err)
			}
			if i > 0 && !bytes.Equal(first, other) {
				c.Fatalf("the copies of %s and %s differ at %d", c.nodes[0].id, n.id, off)
			}
		}
	}
}

// numbered is a block that is nowhere else.
func numbered(i int) []byte {
	p := make([]byte, blockBytes)
	fill(p, int64(i), 1<<40)
	return p
}

func (n *node) write(t *testing.T, off int64, p []byte) {
	t.Helper()
	if err := blockdev.WriteAt(n.vol, p, off); err != nil {
		t.Fatal(err)
	}
}

// A host that reads what the owner's own disk has got wrong sees nothing of
// it, and the disk has it right afterwards.
func TestReadsRepair(t *testing.T) {
	c := newCluster(t, options{change: func(c *device.Config) { c.Timeouts.Hedge = time.Minute }}) // nobody else is asked before
	owner := c.nodes[0]
	c.meta.grant(owner)
	const at = 5<<20 + 12288
	owner.write(t, at, numbered(1))
	owner.rot(numbered(1))
	for _, n := range []*node{c.nodes[1], owner} { // by way of the owner, and there
		got := make([]byte, blockBytes)
		if err := blockdev.ReadAt(n.vol, got, at); err != nil || !bytes.Equal(got, numbered(1)) {
			t.Fatalf("read through %s: %v", n.id, err)
		}
	}
	c.await("the repair", func() bool { return owner.vol.Status().Volume.Repairs == 1 })
	c.await("an equal copy", func() bool { return owner.stored(store.OpRead, 64<<20+2<<20+12288, make([]byte, blockBytes)) == nil })
	c.wantEqual()
}

// A scrub finds what hosts don't read: what a disk can't read, and what a disk
// has wrong and believes to be right. It says where and whose, and repairs it,
// while hosts go on.
func TestScrub(t *testing.T) {
	c := newCluster(t, options{})
	owner := c.nodes[0]
	c.meta.grant(owner)
	const (
		unreadable = 3<<20 + 5*blockBytes  // the second extent: 1 MiB + 20 KiB
		different  = 40<<20 + 8*blockBytes // the first: 20 MiB + 32 KiB
	)
	owner.write(t, unreadable, numbered(1))
	owner.write(t, different, numbered(2))
	c.nodes[1].rot(numbered(1))
	if err := c.nodes[2].stored(store.OpWrite, 20<<20+8*blockBytes, numbered(3)); err != nil {
		t.Fatal(err)
	}
	w := c.load(t, 1, 2, c.nodes...)
	w.until(100)
	var found []device.Finding
	scrub := func() {
		t.Helper()
		found = nil
		reached := int64(0)
		err := owner.vol.Scrub(t.Context(), 0, 0, func(at int64) { reached = at }, func(f device.Finding) { found = append(found, f) })
		if err != nil || reached != volumeBytes {
			t.Fatalf("reached %d: %v", reached, err)
		}
	}
	scrub()
	slices.SortFunc(found, func(a, b device.Finding) int { return int(a.Offset - b.Offset) })
	if len(found) != 2 {
		t.Fatalf("found %+v", found)
	}
	if f := found[0]; f.Offset != 3<<20 || !f.Unreadable || f.Differ != 0 || !slices.Equal(f.Disks, []uint16{11}) || f.Err != nil {
		t.Errorf("what could not be read was found as %+v", f)
	}
	if f := found[1]; f.Offset != 40<<20 || f.Unreadable || f.Differ != blockBytes || f.Tied != 0 || !slices.Equal(f.Disks, []uint16{12}) || f.Err != nil {
		t.Errorf("what differed was found as %+v", f)
	}
	if n := owner.vol.Status().Volume.Repairs; n < 2 {
		t.Errorf("%d repairs were counted", n)
	}
	if n := owner.vol.Scrubbed(); n != volumeBytes {
		t.Errorf("%d bytes were counted", n)
	}
	scrub()
	if len(found) != 0 {
		t.Errorf("a second scrub found %+v", found)
	}
	w.until(100)
	w.end()
	c.wantEqual()
	w.verify(c.nodes[1])

	// One region by itself, as a store has told of it.
	c.nodes[1].rot(numbered(1))
	f, err := owner.vol.ScrubStored(t.Context(), 64<<20+1<<20+5*blockBytes)
	if err != nil || f.Offset != 3<<20 || !f.Unreadable {
		t.Errorf("%+v, %v", f, err)
	}
	c.wantEqual()

	// What no disk can read is said, and left alone.
	for _, n := range c.nodes {
		n.rot(numbered(2))
	}
	if scrub(); len(found) != 1 || found[0].Offset != 40<<20 || found[0].Err == nil {
		t.Errorf("found %+v", found)
	}
}

// A scrub ends when the volume is somebody else's, and when it is told to.
func TestScrubEnds(t *testing.T) {
	c := newCluster(t, options{})
	none := func(f device.Finding) { t.Errorf("found %+v", f) }
	v := c.nodes[0].vol
	reached := int64(0)
	passed := func(at int64) { reached = at }
	if err := v.Scrub(t.Context(), 0, 0, passed, none); reached != 0 || !errors.Is(err, device.ErrNotOwner) {
		t.Errorf("without an owner: %d, %v", reached, err)
	}
	c.meta.grant(c.nodes[0])
	ctx, cancel := context.WithCancel(t.Context())
	for _, end := range []struct {
		do   func()
		want error
	}{{cancel, context.Canceled}, {func() { c.handOver(c.nodes[1]) }, device.ErrNotOwner}} {
		before := v.Scrubbed()
		done := make(chan error, 1)
		from := reached
		go func() { done <- v.Scrub(ctx, from, 1<<20, passed, none) }()
		c.await("the scrub to have begun", func() bool { return v.Scrubbed() > before })
		end.do()
		if err := <-done; !errors.Is(err, end.want) || reached <= from || reached >= volumeBytes {
			t.Errorf("reached %d: %v, want %v", reached, err, end.want)
		}
		ctx = t.Context()
	}
}
