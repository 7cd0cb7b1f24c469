package devtest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/blockdev/fault"
	"blockd.dev/blockdev/ram"
)

func makeRAM(t *testing.T, cfg ram.Config) *ram.Device {
	t.Helper()
	d, err := ram.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestRAM(t *testing.T) {
	for name, cfg := range map[string]ram.Config{
		"512":      {SizeBytes: 8 << 20},
		"4096":     {SizeBytes: 8 << 20, BlockSize: 4096},
		"capacity": {SizeBytes: 8 << 20, CapacityBytes: 64 << 20},
		"odd size": {SizeBytes: 3<<20 + 512},
	} {
		t.Run(name, func(t *testing.T) {
			Run(t, func(t *testing.T) (blockdev.Device, *arena.Arena) { return makeRAM(t, cfg), nil })
		})
	}
}

func TestFaultWithoutRules(t *testing.T) {
	Run(t, func(t *testing.T) (blockdev.Device, *arena.Arena) {
		d := fault.New(makeRAM(t, ram.Config{SizeBytes: 4 << 20}), nil)
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
		return d, nil
	})
}

// altered is a RAM disk with one thing wrong.
type altered struct {
	blockdev.Device
	submit func(below blockdev.Device, r *blockdev.Request)
}

func (d *altered) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		d.submit(d.Device, r)
	}
}

// lent is what a broken device has lent.
var lent [][]byte

// nobody takes back what needs no return.
type nobody struct{}

func (nobody) TakeBack(*blockdev.Request) {}

func one(d blockdev.Device, r *blockdev.Request) { d.Submit([]*blockdev.Request{r}) }

// broken are devices that the suite must find fault with, each with the part
// of the suite that finds it.
var broken = map[string]struct {
	part   string
	submit func(blockdev.Device, *blockdev.Request)
}{
	"done twice": {"DoneExactlyOnce", func(d blockdev.Device, r *blockdev.Request) {
		one(d, r)
		if errors.Is(r.Err, blockdev.ErrOutOfRange) {
			r.Done(r)
		}
	}},
	"compare and write is not atomic": {"CompareAndWriteLosesNothing", func(d blockdev.Device, r *blockdev.Request) {
		if r.Op != blockdev.OpCompareAndWrite {
			one(d, r)
			return
		}
		data := bytes.Join(r.Data, nil)
		old := make([]byte, r.Length)
		err := blockdev.ReadAt(d, old, r.Offset)
		if err == nil && !bytes.Equal(old, data[:r.Length]) {
			err = blockdev.NewError(blockdev.ErrMiscompare, r, -1, nil)
		}
		for i := 0; err == nil && i < len(old); i += 512 {
			runtime.Gosched() // let others in
			err = blockdev.WriteAt(d, data[len(old)+i:][:512], r.Offset+int64(i))
		}
		blockdev.Complete(r, err)
	}},
	"miscompare offset is the request's": {"MiscompareOffset", func(d blockdev.Device, r *blockdev.Request) {
		err := blockdev.Do(d, &blockdev.Request{Op: r.Op, Offset: r.Offset, Length: r.Length, Data: r.Data, FUA: r.FUA})
		if errors.Is(err, blockdev.ErrMiscompare) {
			err = blockdev.NewError(blockdev.ErrMiscompare, r, -1, nil)
		}
		blockdev.Complete(r, err)
	}},
	"unmap does nothing": {"UnmapAndWriteZeroes", func(d blockdev.Device, r *blockdev.Request) {
		if r.Op == blockdev.OpUnmap {
			blockdev.Complete(r, nil)
			return
		}
		one(d, r)
	}},
	"blocks written in halves": {"OverlappingWritersNeverTear", func(d blockdev.Device, r *blockdev.Request) {
		if r.Op != blockdev.OpWrite || r.Length == 0 {
			one(d, r)
			return
		}
		// The device below has blocks of 512, this one claims 4096.
		data := bytes.Join(r.Data, nil)
		var err error
		for i := 0; err == nil && i < len(data); i += 512 {
			runtime.Gosched() // let others in
			err = blockdev.WriteAt(d, data[i:i+512], r.Offset+int64(i))
		}
		blockdev.Complete(r, err)
	}},
	"segments are taken for one": {"OddSegments", func(d blockdev.Device, r *blockdev.Request) {
		if r.Op != blockdev.OpWrite || len(r.Data) < 2 {
			one(d, r)
			return
		}
		data := bytes.Join(r.Data, nil)
		copy(data[len(data)-len(data)/2:], data) // the second half is lost
		blockdev.Complete(r, blockdev.WriteAt(d, data, r.Offset))
	}},
	"what is lent changes with the next write": {"Borrow", func(d blockdev.Device, r *blockdev.Request) {
		if !r.Borrow {
			one(d, r)
			for _, p := range lent {
				p[len(p)-1] ^= byte(r.Op)
			}
			return
		}
		data := make([]byte, r.Length)
		err := blockdev.ReadAt(d, data, r.Offset)
		r.Data, r.Lender = [][]byte{data}, nobody{}
		lent = append(lent, data)
		blockdev.Complete(r, err)
	}},
	"the end is not checked": {"Refusals", func(d blockdev.Device, r *blockdev.Request) {
		if r.Op != blockdev.OpFlush && r.Offset >= d.Geometry().SizeBytes {
			blockdev.Complete(r, nil)
			return
		}
		one(d, r)
	}},
}

// claim4K says that blocks are 4096 bytes whatever is below.
type claim4K struct{ *altered }

func (d claim4K) Geometry() blockdev.Geometry {
	g := d.altered.Geometry()
	g.BlockSize = 4096
	return g
}

const brokenEnv = "BLOCKD_DEVTEST_BROKEN"

// TestBroken is run by TestBrokenDevicesAreFound in a process of its own,
// where it has to fail.
func TestBroken(t *testing.T) {
	b, ok := broken[os.Getenv(brokenEnv)]
	if !ok {
		return // an ordinary run
	}
	run := Tests[b.part]
	if run == nil {
		run = optional[b.part].run
	}
	run(t, func(t *testing.T) (blockdev.Device, *arena.Arena) {
		d := &altered{Device: makeRAM(t, ram.Config{SizeBytes: 4 << 20}), submit: b.submit}
		if b.part == "OverlappingWritersNeverTear" {
			return claim4K{d}, nil
		}
		return d, nil
	})
}

// The suite is worth something if it fails devices that are wrong.
func TestBrokenDevicesAreFound(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name := range broken {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command(self, "-test.run=^TestBroken$", "-test.v", "-test.timeout=30s")
			cmd.Env = append(os.Environ(), brokenEnv+"="+name)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || !strings.Contains(string(out), "--- FAIL: TestBroken") {
				t.Fatalf("the suite passed it (%v):\n%s", err, out)
			}
		})
	}
}
