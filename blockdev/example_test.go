package blockdev_test

import (
	"bytes"
	"fmt"
	"sync"

	"blockd.dev/blockdev"
)

// minimal is a whole Device: one lock, one slice, everything done in Submit.
// Package ram is the one to use.
type minimal struct {
	sync.Mutex
	blockdev.Watchers
	mem []byte
}

func (d *minimal) Geometry() blockdev.Geometry {
	return blockdev.Geometry{SizeBytes: int64(len(d.mem)), BlockSize: 512, PhysicalBlockSize: 512}
}

func (d *minimal) Watch(fn func(blockdev.Change)) (stop func()) { return d.Add(fn) }

func (d *minimal) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		err := blockdev.Validate(d.Geometry(), r)
		if err == nil && r.Op != blockdev.OpFlush {
			err = d.do(r, d.mem[r.Offset:r.Offset+r.Length])
		}
		blockdev.Complete(r, err)
	}
}

func (d *minimal) do(r *blockdev.Request, mem []byte) error {
	d.Lock()
	defer d.Unlock()
	data := bytes.Join(r.Data, nil)
	switch r.Op {
	case blockdev.OpRead:
		for _, seg := range r.Data {
			mem = mem[copy(seg, mem):]
		}
	case blockdev.OpWrite:
		copy(mem, data)
	case blockdev.OpUnmap, blockdev.OpWriteZeroes:
		clear(mem)
	case blockdev.OpCompareAndWrite:
		for i := range mem {
			if mem[i] != data[i] {
				return blockdev.NewError(blockdev.ErrMiscompare, r, r.Offset+int64(i), nil)
			}
		}
		copy(mem, data[r.Length:])
	}
	return nil
}

// A device can be small: minimal, above, passes the conformance suite.
func Example() {
	d := &minimal{mem: make([]byte, 1<<20)}
	block := make([]byte, 512)
	copy(block, "hello")
	if err := blockdev.WriteAt(d, block, 4096); err != nil {
		fmt.Println(err)
	}
	got := make([]byte, 1024)
	if err := blockdev.ReadAt(d, got, 4096); err != nil {
		fmt.Println(err)
	}
	fmt.Printf("%q\n", got[:6])
	fmt.Println(blockdev.ReadAt(d, got, 1<<20))
	// Output:
	// "hello\x00"
	// read of 1024 bytes at 1048576: beyond the end of the device
}
