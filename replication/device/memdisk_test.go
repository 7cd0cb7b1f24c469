package device_test

import (
	"blockd.dev/blockdev/disk"
)

// memDisk is a disk that costs nothing but a copy, for measuring what is above.
type memDisk []byte

func (d memDisk) SizeBytes() int64 { return int64(len(d)) }
func (d memDisk) Info() disk.Info  { return disk.Info{Path: "memory", Driver: "sim", Direct: true} }
func (d memDisk) Close() error     { return nil }

func (d memDisk) Submit(batch []*disk.IO) {
	for _, io := range batch {
		at := io.Off
		for _, b := range io.Bufs {
			switch io.Op {
			case disk.Read:
				copy(b, d[at:])
			case disk.Write:
				copy(d[at:], b)
			default:
			}
			at += int64(len(b))
		}
		io.Err = nil
		io.Done(io)
	}
}
