package store

import (
	"fmt"

	"blockd.dev/blockdev/disk"
)

// syncIO does one disk operation at a time and waits for it. Only Format, Open
// and Check use it; the data path never waits.
type syncIO struct {
	d    disk.Disk
	io   disk.IO
	bufs [1][]byte
	done chan struct{}
}

func newSyncIO(d disk.Disk) *syncIO {
	s := &syncIO{d: d, done: make(chan struct{}, 1)}
	s.io.Done = func(*disk.IO) { s.done <- struct{}{} }
	return s
}

func (s *syncIO) do(op disk.Op, p []byte, off int64) error {
	s.bufs[0] = p
	s.io.Op, s.io.Off, s.io.Bufs, s.io.Err = op, off, s.bufs[:], nil
	if op == disk.Sync {
		s.io.Bufs = nil
	}
	s.d.Submit([]*disk.IO{&s.io})
	<-s.done
	if s.io.Err != nil {
		return fmt.Errorf("disk %s at %d: %w", s.d.Info().Path, off, s.io.Err)
	}
	return nil
}

func (s *syncIO) read(p []byte, off int64) error  { return s.do(disk.Read, p, off) }
func (s *syncIO) write(p []byte, off int64) error { return s.do(disk.Write, p, off) }
func (s *syncIO) sync() error                     { return s.do(disk.Sync, nil, 0) }
