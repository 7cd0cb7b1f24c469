package trial

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/store"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
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
	id, err := hex.DecodeString(v.GetId())
	if err != nil || len(id) != len(store.VolumeID{}) {
		return 0, fmt.Errorf("trial: volume id %q: %w", v.GetId(), err)
	}
	disks, err := t.disks(ctx)
	if err != nil {
		return 0, err
	}
	if err := t.c.Stop(stopGrace, t.names()...); err != nil {
		return 0, err
	}
	var copies []copied
	for _, node := range t.names() {
		c := copied{where: node, blocks: map[int64][]byte{}}
		for _, d := range disks {
			// What a disk still has of extents that have moved away is no copy.
			isCopy := slices.ContainsFunc(v.GetReplicas(), func(r *blockdv1.Replica) bool { return r.GetDisk() == d.GetUuid() })
			if d.GetNode() != node || !isCopy {
				continue
			}
			if err := c.read(d.GetPath(), store.VolumeID(id)); err != nil {
				return 0, fmt.Errorf("trial: %s: %w", d.GetName(), err)
			}
		}
		copies = append(copies, c)
	}
	return compare(copies)
}

// copied is what a node has of the volume: the blocks that are not all zeroes, by where they are in the store.
type copied struct {
	where  string
	blocks map[int64][]byte
}

// read adds what is on a disk. No two disks of a node have a copy of the same extent.
func (c *copied) read(path string, id store.VolumeID) (err error) {
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
		err = c.readVolume(s, v)
		s.CloseVolume(v)
	}
	return errors.Join(err, s.Close())
}

func (c *copied) readVolume(s *store.Store, v *store.Vol) error {
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
			if err := c.readBlock(s, v, at); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *copied) readBlock(s *store.Store, v *store.Vol, at int64) error {
	b, done := disk.NewAligned(blockBytes), make(chan struct{})
	op := &store.Op{Kind: store.OpRead, Vol: v, Off: at, Len: blockBytes, Data: [][]byte{b}, Done: func(*store.Op) { close(done) }}
	s.Submit([]*store.Op{op})
	<-done
	switch {
	case op.Err != nil:
		return fmt.Errorf("byte %d: %w: %w", at, op.Err, op.Cause)
	case bytes.Equal(b, make([]byte, blockBytes)):
		return nil
	case c.blocks[at] != nil:
		return fmt.Errorf("byte %d is on two disks of the node", at)
	}
	c.blocks[at] = b
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
	switch blocks = len(copies[0].blocks); {
	case len(differ) > 0:
		return blocks, fmt.Errorf("trial: %d of the blocks differ between copies, for instance %s", len(differ), first)
	case blocks == 0:
		return 0, errors.New("trial: no copy holds anything")
	}
	return blocks, nil
}

// sketch is the begin of a block.
func sketch(b []byte) string {
	if b == nil {
		return "zeroes"
	}
	return fmt.Sprintf("%x", b[:16])
}
