package uring

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func newRing(t *testing.T, entries uint32) *Ring {
	t.Helper()
	r, err := New(entries)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// run submits what has been filled and returns n completions by UserData.
func run(t *testing.T, r *Ring, n int) map[uint64]int32 {
	t.Helper()
	r.Publish()
	got := map[uint64]int32{}
	for len(got) < n {
		if _, errno := r.Enter(r.Unconsumed(), 1); errno != 0 && errno != syscall.EINTR {
			t.Fatal(errno)
		}
		var out [8]CQE
		for _, c := range out[:r.Reap(out[:])] {
			got[c.UserData] = c.Res
		}
	}
	return got
}

// TestKernelRing: the real ring does what a disk needs, over many laps.
func TestKernelRing(t *testing.T) {
	r := newRing(t, 8)
	if !r.Supports(OpRead, OpWrite, OpReadv, OpWritev, OpFsync, OpFallocate) || r.Supports(255) {
		t.Fatal("Supports is wrong")
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := r.RegisterFiles([]int32{int32(f.Fd())}); err != nil {
		t.Fatal(err)
	}
	want, got := bytes.Repeat([]byte("blockd.."), 64), make([]byte, 512)
	for lap := range 50 {
		e := r.Next()
		*e = SQE{Opcode: OpWrite, Flags: FlagFixedFile, Off: uint64(lap) * 512, Addr: AddrOf(want), Len: 512, OpFlags: unix.RWF_DSYNC, UserData: 1}
		if res := run(t, r, 1); res[1] != 512 {
			t.Fatalf("write: %d", res[1])
		}
		e = r.Next()
		*e = SQE{Opcode: OpFsync, Flags: FlagFixedFile, OpFlags: FsyncDatasync, UserData: 2}
		e = r.Next()
		*e = SQE{Opcode: OpRead, Flags: FlagFixedFile, Off: uint64(lap) * 512, Addr: AddrOf(got), Len: 512, UserData: 3}
		if res := run(t, r, 2); res[2] != 0 || res[3] != 512 || !bytes.Equal(got, want) {
			t.Fatalf("sync %d, read %d", res[2], res[3])
		}
	}
	if err := r.UnregisterFiles(); err != nil {
		t.Fatal(err)
	}
	e := r.Next()
	*e = SQE{Opcode: OpRead, Flags: FlagFixedFile, Addr: AddrOf(got), Len: 512, UserData: 4}
	if res := run(t, r, 1); syscall.Errno(-res[4]) != syscall.EBADF {
		t.Fatalf("read after UnregisterFiles: %d", res[4])
	}
}

// TestRegisteredBuffers: fixed reads and writes reach registered memory.
func TestRegisteredBuffers(t *testing.T) {
	r := newRing(t, 8)
	region, err := unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(region)
	if err := r.RegisterBuffers([][]byte{region}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	copy(region, "fixed")
	*r.Next() = SQE{Opcode: OpWriteFixed, Fd: int32(f.Fd()), Addr: AddrOf(region), Len: 4096, UserData: 1}
	if res := run(t, r, 1); res[1] != 4096 {
		t.Fatalf("write: %d", res[1])
	}
	*r.Next() = SQE{Opcode: OpReadFixed, Fd: int32(f.Fd()), Addr: AddrOf(region[4096:]), Len: 4096, UserData: 2}
	if res := run(t, r, 1); res[2] != 4096 || string(region[4096:4101]) != "fixed" {
		t.Fatalf("read: %d %q", res[2], region[4096:4101])
	}
}

// TestOverflowIsDelivered: completions beyond the ring's room are kept by the
// kernel and come out after the others.
func TestOverflowIsDelivered(t *testing.T) {
	r := newRing(t, 4)
	const n = 40 // the completion ring has 8
	for i := range n {
		*r.Next() = SQE{Opcode: OpNop, UserData: uint64(i)}
		r.Publish()
		if took, errno := enter(r.fd, 1, 0, 0); took != 1 || errno != 0 {
			t.Fatalf("submission %d: took %d, %v", i, took, errno)
		}
	}
	if !r.Overflowed() {
		t.Fatal("no overflow though nothing was reaped")
	}
	if got := run(t, r, n); len(got) != n {
		t.Fatalf("%d of %d completions", len(got), n)
	}
}

func TestNewRefusesSizes(t *testing.T) {
	for _, n := range []uint32{0, MaxEntries + 1} {
		if r, err := New(n); err == nil {
			r.Close()
			t.Errorf("New(%d) succeeded", n)
		}
	}
}

// TestRefusalsSayWhatToDo: each reason for having no io_uring has its words.
func TestRefusalsSayWhatToDo(t *testing.T) {
	for errno, word := range map[syscall.Errno]string{syscall.ENOSYS: "kernel", syscall.EPERM: "seccomp", syscall.ENOMEM: "ulimit", syscall.EMFILE: "setup"} {
		err := refused(errno)
		if !errors.Is(err, ErrUnsupported) || !errors.Is(err, errno) || !strings.Contains(err.Error(), word) {
			t.Errorf("%v: %v", errno, err)
		}
	}
}

// TestSubmitAndReapDoNotAllocate covers the whole life of a request.
func TestSubmitAndReapDoNotAllocate(t *testing.T) {
	r := newRing(t, 8)
	var out [4]CQE
	if n := testing.AllocsPerRun(100, func() {
		*r.Next() = SQE{Opcode: OpNop}
		r.Publish()
		if _, errno := r.Enter(1, 1); errno != 0 {
			t.Fatal(errno)
		}
		r.Reap(out[:])
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
