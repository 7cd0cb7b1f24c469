package device_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/store"
	"blockd.dev/replication/volume"
)

// fillBut fills the node's disk with another volume, so that n regions are left.
// It returns what frees all of that.
func (n *node) fillBut(regions int64) (free func()) {
	n.c.Helper()
	v, err := n.store.OpenVolume(store.VolumeID{9})
	if err != nil {
		n.c.Fatal(err)
	}
	done := make(chan error, 1)
	do := func(op *store.Op) error {
		op.Vol, op.Done = v, func(op *store.Op) { done <- op.Err }
		n.store.Submit([]*store.Op{op})
		return <-done
	}
	p := disk.NewAligned(store.ChunkBytes)
	off := int64(0)
	for ; err == nil; off += store.ChunkBytes {
		err = do(&store.Op{Kind: store.OpWrite, Off: off, Len: len(p), Data: [][]byte{p}})
	}
	if !errors.Is(err, blockdev.ErrNoSpace) {
		n.c.Fatal(err)
	}
	off -= store.ChunkBytes
	clear := func(end int64) {
		for ; off > end; off -= store.ChunkBytes {
			if err := do(&store.Op{Kind: store.OpClear, Off: off - store.ChunkBytes, Len: store.ChunkBytes}); err != nil {
				n.c.Fatal(err)
			}
		}
	}
	clear(off - regions*store.ChunkBytes)
	return func() { clear(0) }
}

// When disks are full hosts are told so at once, on every node. All that they
// have can still be read, and written anew; all copies stay equal and in sync.
// What they unmap is there for others, and so is what another volume gives back.
func TestFullDisks(t *testing.T) {
	c := newCluster(t, options{diskBytes: 48 << 20})
	c.meta.grant(c.nodes[0])
	var frees []func()
	for i, n := range c.nodes {
		frees = append(frees, n.fillBut(20+4*int64(i)))
	}
	const size = 96 << 10 // a region and a half
	at := func(i int) int64 { return int64(i) * 2 * size }
	was := map[int]byte{}
	write := func(i int, b byte) error {
		began := time.Now()
		err := blockdev.WriteAt(c.nodes[i%3].vol, bytes.Repeat([]byte{b}, size), at(i))
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("write %d took %v", i, took)
		}
		if err == nil {
			was[i] = b
		}
		return err
	}
	check := func(when string) {
		t.Helper()
		p := make([]byte, size)
		for _, n := range c.nodes {
			c.handOver(n) // reads from its own disk
			for i := range 40 {
				if err := blockdev.ReadAt(n.vol, p, at(i)); err != nil {
					t.Fatalf("%s: read %d through %s: %v", when, i, n.id, err)
				}
				if want := bytes.Repeat([]byte{was[i]}, size); !bytes.Equal(p, want) {
					t.Errorf("%s: write %d is %d on %s, want %d", when, i, p[0], n.id, was[i])
				}
			}
		}
		if !c.meta.settled() {
			t.Errorf("%s: not all replicas are in sync: %+v", when, c.meta.view)
		}
	}
	refused := 0
	for i := range 20 {
		switch err := write(i, byte(i+1)); {
		case errors.Is(err, blockdev.ErrNoSpace):
			refused++
		case err != nil:
			t.Fatalf("write %d: %v", i, err)
		case refused > 0 && i > 15:
			t.Errorf("write %d found space after %d had not", i, refused)
		}
	}
	if len(was) < 5 || refused < 5 {
		t.Fatalf("%d writes were done and %d refused", len(was), refused)
	}
	check("full")
	for i := range was {
		if err := write(i, 0x80|byte(i)); err != nil {
			t.Errorf("write %d anew: %v", i, err)
		}
	}
	for i := range 4 {
		if err := blockdev.Do(c.nodes[i%3].vol, &blockdev.Request{Op: blockdev.OpUnmap, Offset: at(i), Length: size}); err != nil {
			t.Fatal(err)
		}
		was[i] = 0
	}
	check("unmapped")
	for i := 20; i < 22; i++ {
		if err := write(i, byte(i)); err != nil {
			t.Errorf("write %d into what was unmapped: %v", i, err)
		}
	}
	for _, free := range frees {
		free()
	}
	for i := 22; i < 40; i++ {
		if err := write(i, byte(i)); err != nil {
			t.Errorf("write %d after the other volume gave its space back: %v", i, err)
		}
	}
	check("freed")
}

// A disk that comes back has no space for all that it missed, and hosts write on, to regions that it
// has and to others. Their writes are done, one rebuild goes on all the time, and ends when there is space.
func TestRebuildOfAFullDisk(t *testing.T) {
	c := newCluster(t, options{diskBytes: 48 << 20, failover: true})
	owner, n := c.nodes[0], c.nodes[2]
	c.meta.grant(owner)
	p := bytes.Repeat([]byte{1}, store.ChunkBytes)
	write := func(region int, p []byte) {
		t.Helper()
		if err := blockdev.WriteAt(owner.vol, p, int64(region)*store.ChunkBytes); err != nil {
			t.Fatalf("write region %d: %v", region, err)
		}
	}
	for i := range 10 {
		write(i, p)
	}
	n.close()
	c.await("the loss", func() bool { return !c.meta.settled() })
	for i := 5; i < 30; i++ {
		write(i, p)
	}
	n.start()
	free := n.fillBut(5)
	n.connect()
	member := func() volume.MemberStatus { return owner.vol.Status().Volume.Members[2] }
	c.await("refused copies", func() bool { return member().Refused > 0 })
	began := member()
	for i := 0; member().Refused < began.Refused+100; i++ {
		write(i%40, p[:8192]) // of the last ten it has nothing
		if m := member(); m.Gen != began.Gen || !m.Connected || m.Left > began.Left+10 {
			t.Fatalf("after %d writes: generation %d, connected: %v, %d regions left; want the rebuild of generation %d to go on, which had %d left",
				i, m.Gen, m.Connected, m.Left, began.Gen, began.Left)
		}
	}
	free()
	c.await("the end of the rebuild", c.meta.settled)
	if m := member(); m.Gen != began.Gen {
		t.Errorf("generation %d in the end, of a rebuild that began with %d", m.Gen, began.Gen)
	}
	c.wantEqual()
}
