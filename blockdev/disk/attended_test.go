package disk_test

import (
	"runtime"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/disktest"
)

// attended is a disk with an attendant that comes with every Submit, if it is
// wanted, and goes on as long as it is.
type attended struct {
	disk.Disk
	submits chan struct{}
	ended   sync.WaitGroup
}

func withAttendant(d disk.Disk) *attended {
	a := &attended{Disk: d, submits: make(chan struct{}, 1)}
	a.ended.Add(1)
	go func() {
		defer a.ended.Done()
		for range a.submits {
			serve(disk.AttendedOf(d))
		}
	}()
	return a
}

// serve attends for as long as it may.
func serve(d disk.Attended) {
	for attending := d.Attend(func() {}); attending; runtime.Gosched() {
		var worked bool
		if worked, attending = d.Look(); worked || !attending {
			continue
		}
		if attending = d.Rest(); attending && d.FD() >= 0 {
			_, _ = unix.Poll([]unix.PollFd{{Fd: int32(d.FD()), Events: unix.POLLIN}}, 1) // Look finds out
		}
	}
}

func (a *attended) Submit(batch []*disk.IO) {
	select {
	case a.submits <- struct{}{}:
	default:
	}
	a.Disk.Submit(batch)
}

func (a *attended) Close() error {
	err := a.Disk.Close()
	if a.submits != nil {
		close(a.submits)
		a.ended.Wait()
		a.submits = nil
	}
	return err
}

// An attendant changes nothing of what a disk promises.
func TestConformanceWithAttendant(t *testing.T) {
	for name, maker := range map[string]disktest.Maker{
		"io_uring": func(t *testing.T) disk.Disk { return withAttendant(open(t, disk.Options{Driver: disk.DriverURing})) },
		"buffered": func(t *testing.T) disk.Disk {
			return withAttendant(open(t, disk.Options{Driver: disk.DriverURing, Buffered: true}))
		},
		"depth3": func(t *testing.T) disk.Disk {
			return withAttendant(open(t, disk.Options{Driver: disk.DriverURing, QueueDepth: 3}))
		},
		"mock-ring": func(t *testing.T) disk.Disk { return withAttendant(disk.OverMock(t, disktest.SizeBytes, 64, 1)) },
	} {
		t.Run(name, func(t *testing.T) { disktest.Run(t, maker) })
	}
}
