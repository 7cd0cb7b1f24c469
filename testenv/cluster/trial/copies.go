package trial

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/store"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/raftmeta/group"
	"blockd.dev/testenv/cluster"
)

// CompareCopies stops all nodes and compares what their disks hold of the volume, byte by byte,
// without the replication that made them equal. Each disk is also checked against its own checksums. The nodes
// stay stopped.
func (t *Trial) CompareCopies(ctx context.Context) (blocks int, err error) {
	if _, err := t.AwaitSync(ctx); err != nil {
		return 0, err
	}
	v, err := t.volumeNamed(ctx, volumeName)
	if err != nil {
		return 0, err
	}
	id, ok := catalog.ParseID(v.GetId())
	if !ok {
		return 0, fmt.Errorf("trial: volume id %q", v.GetId())
	}
	state, err := t.state(ctx)
	if err != nil {
		return 0, err
	}
	if err := t.c.Stop(stopGrace, t.names()...); err != nil {
		return 0, err
	}
	placed, has := state.Map().Volume(extmap.VolumeID(id)), map[extmap.Disk]*kept{}
	for _, d := range state.Disks {
		if placed.Uses(d.Number) == 0 {
			continue
		}
		k := &kept{where: state.NodeByID(d.Node).Name + "/" + filepath.Base(d.Path), extents: map[uint32]map[int64][]byte{}}
		if err := k.read(d.Path, store.VolumeID(id)); err != nil {
			return 0, fmt.Errorf("trial: %s: %w", k.where, err)
		}
		has[d.Number] = k
	}
	for index := range placed.Layout().Extents() {
		extent, _ := placed.Extent(index)
		var of []copied
		for _, d := range extent.Disks { // what other disks still have of it, since it has moved away, is no copy
			of = append(of, copied{has[d].where, has[d].extents[index]})
		}
		n, err := compare(of)
		if err != nil {
			return 0, err
		}
		blocks += n
	}
	if blocks == 0 {
		return 0, errors.New("trial: no copy holds anything")
	}
	return blocks, nil
}

// state is what the cluster's backup says, which has the places of all extents.
func (t *Trial) state(ctx context.Context) (*catalog.State, error) {
	dir, err := os.MkdirTemp("", "trial")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "backup")
	if _, err := t.c.Ctl(ctx, cluster.HostName, "cluster", "backup", path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := group.ReadBackupFSM(f)
	if err != nil {
		return nil, err
	}
	return catalog.ReadState(r)
}

// copied is a copy of an extent: the blocks that are not all zeroes, by where they are in the store.
type copied struct {
	where  string
	blocks map[int64][]byte
}

// kept is what a disk has of the volume: such blocks, by extent.
type kept struct {
	where   string
	extents map[uint32]map[int64][]byte
}

// read adds what is on a disk.
func (k *kept) read(path string, id store.VolumeID) (err error) {
	d, err := disk.Open(path, disk.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	var problems bytes.Buffer
	report, err := store.Check(d, &problems)
	if err == nil && report.Problems > 0 {
		err = fmt.Errorf("the store is damaged: %s", &problems)
	}
	if err != nil {
		return err
	}
	s, err := store.Open(d, store.Options{})
	if err != nil {
		return err
	}
	v, err := s.OpenVolume(id)
	if err == nil {
		err = k.readVolume(s, v)
		s.CloseVolume(v)
	}
	return errors.Join(err, s.Close())
}

func (k *kept) readVolume(s *store.Store, v *store.Vol) error {
	for at := int64(0); at < volumeBytes; {
		mapped, run, err := s.Mapped(v, at, volumeBytes-at)
		if err != nil {
			return err
		}
		for end := at + run; at < end; at += blockBytes {
			if !mapped {
				at = end
				break
			}
			if err := k.readBlock(s, v, at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k *kept) readBlock(s *store.Store, v *store.Vol, at int64) error {
	b, done := disk.NewAligned(blockBytes), make(chan struct{})
	op := &store.Op{Kind: store.OpRead, Vol: v, Off: at, Len: blockBytes, Data: [][]byte{b}, Done: func(*store.Op) { close(done) }}
	s.Submit([]*store.Op{op})
	<-done
	switch {
	case op.Err != nil:
		return fmt.Errorf("byte %d: %w: %w", at, op.Err, op.Cause)
	case bytes.Equal(b, make([]byte, blockBytes)):
		return nil
	}
	extent := uint32(at / extmap.ShardBytes)
	if k.extents[extent] == nil {
		k.extents[extent] = map[int64][]byte{}
	}
	k.extents[extent][at] = b
	return nil
}

// compare returns how many blocks all have, or an error if one has something else.
func compare(copies []copied) (blocks int, err error) {
	differ, first := map[int64]bool{}, ""
	for i, c := range copies {
		other := copies[(i+1)%len(copies)]
		for at, b := range c.blocks {
			if !bytes.Equal(b, other.blocks[at]) {
				differ[at] = true
				first = fmt.Sprintf("at byte %d %s has %s, %s %s", at, c.where, sketch(b), other.where, sketch(other.blocks[at]))
			}
		}
	}
	if len(differ) > 0 {
		return 0, fmt.Errorf("trial: %d of the blocks differ between copies, for instance %s", len(differ), first)
	}
	return len(copies[0].blocks), nil
}

// sketch is the begin of a block.
func sketch(b []byte) string {
	if b == nil {
		return "zeroes"
	}
	return fmt.Sprintf("%x", b[:16])
}
