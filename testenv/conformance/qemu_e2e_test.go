//go:build e2e

package conformance

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const mib = 1 << 20

// writeImage makes a file of size bytes with random data in its first and last
// quarter and a hole between.
func writeImage(t *testing.T, size int64) string {
	t.Helper()
	const seed = 1
	rnd := rand.NewChaCha8([32]byte{seed})
	name := filepath.Join(t.TempDir(), "image.raw")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, mib)
	for off := int64(0); off < size; off += mib {
		if off >= size/4 && off < size*3/4 {
			continue
		}
		if _, err := rnd.Read(buf); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(buf, off); err != nil {
			t.Fatal(err)
		}
	}
	return name
}

// TestQEMUConvert: an image converted onto a volume, and back, is the same.
func TestQEMUConvert(t *testing.T) {
	for _, v := range variants[:2] {
		t.Run(v.name, func(t *testing.T) {
			n, vol := startNode(t, v, "64MiB")
			url := n.URL(0, vol)
			img := writeImage(t, 64*mib)

			var info struct {
				VirtualSize int64 `json:"virtual-size"`
			}
			if err := json.Unmarshal([]byte(mustTool(t, "qemu-img", "info", "-f", "raw", "--output=json", url)), &info); err != nil {
				t.Fatal(err)
			}
			if info.VirtualSize != 64*mib {
				t.Errorf("qemu-img sees %d bytes, the volume has %d", info.VirtualSize, 64*mib)
			}
			mustTool(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", img, url)
			mustTool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", img, url)
			back := filepath.Join(t.TempDir(), "back.qcow2")
			mustTool(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", url, back)
			mustTool(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", img, back)

			// The hole in the middle was not written, so the volume has one too.
			if m := mapped(t, url); m.hole < 24*mib || m.data < 32*mib {
				t.Errorf("qemu-img map: %d bytes of data, %d of holes; want about 32 MiB of each", m.data, m.hole)
			}
		})
	}
}

// TestQEMUCreate: a qcow2 image lives on a volume.
func TestQEMUCreate(t *testing.T) {
	n, vol := startNode(t, variants[0], "64MiB")
	url := n.URL(0, vol)
	mustTool(t, "qemu-img", "create", "-f", "qcow2", url, "48M")
	mustTool(t, "qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 1M 3M", "-c", "flush", url)
	mustTool(t, "qemu-img", "check", "-f", "qcow2", url)
	out := mustTool(t, "qemu-io", "-f", "qcow2", "-c", "read -P 0x5a 1M 3M", "-c", "read -P 0 5M 1M", url)
	if strings.Contains(out, "failed") {
		t.Errorf("the data read is not what was written:\n%s", out)
	}
}

// TestQEMUDiscard: what is discarded becomes a hole, reads as zeroes, and what
// is around it stays; vectored, parallel and FUA writes give what they wrote.
//
// The volume is read back by qemu-img convert, which asks for the allocation
// first: QEMU 7.2 asserts when it reads 32 KiB or more of a thin disk with
// blocks of 4096 bytes without having asked (iscsi_co_readv asks then for a
// length that is no multiple of the block).
func TestQEMUDiscard(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			n, vol := startNode(t, v, "64MiB")
			url := n.URL(0, vol)
			want := make([]byte, 64*mib)
			fill := func(from, to int, pattern byte) {
				for i := from; i < to; i++ {
					want[i] = pattern
				}
			}
			mustTool(t, "qemu-io", "-f", "raw", "-d", "unmap", "-c", "write -P 0xa5 0 64M", "-c", "flush", url)
			fill(0, 64*mib, 0xa5)
			if before := mapped(t, url); before.data != 64*mib {
				t.Errorf("of 64 MiB written, %d bytes are mapped", before.data)
			}
			mustTool(t, "qemu-io", "-f", "raw", "-d", "unmap", "-c", "discard 16M 32M", "-c", "write -z -u 56M 4M", "-c", "flush", url)
			fill(16*mib, 48*mib, 0)
			fill(56*mib, 60*mib, 0)
			if after := mapped(t, url); after.hole < 36*mib {
				t.Errorf("of 36 MiB discarded, %d bytes became holes", after.hole)
			}
			mustTool(t, "qemu-io", "-f", "raw",
				"-c", "writev -P 0x11 4k 8k 12k 512k",
				"-c", "aio_write -P 0x22 1M 64k", "-c", "aio_write -P 0x33 2M 256k", "-c", "aio_flush",
				"-c", "write -f -P 0x44 3M 4k",
				"-c", "write -P 0x55 20M 4k", url)
			fill(4<<10, (4+532)<<10, 0x11)
			fill(1*mib, 1*mib+(64<<10), 0x22)
			fill(2*mib, 2*mib+(256<<10), 0x33)
			fill(3*mib, 3*mib+(4<<10), 0x44)
			fill(20*mib, 20*mib+(4<<10), 0x55)

			back := filepath.Join(t.TempDir(), "back.raw")
			mustTool(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", url, back)
			got, err := os.ReadFile(back)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(want) {
				t.Fatalf("read back %d bytes, want %d", len(got), len(want))
			}
			for i := range want {
				if got[i] != want[i] {
					t.Fatalf("at byte %d (of block %d) the volume has %#x, want %#x", i, i/v.blockSize, got[i], want[i])
				}
			}
		})
	}
}

// TestQEMUBench: many requests in flight, of sizes that need several bursts,
// end without an error.
func TestQEMUBench(t *testing.T) {
	n, vol := startNode(t, variants[0], "64MiB")
	url := n.URL(0, vol)
	for _, args := range [][]string{
		{"-w", "-c", "5000", "-d", "32", "-s", "4096", "-S", "8192"},
		{"-c", "5000", "-d", "32", "-s", "4096", "-S", "8192"},
		{"-w", "-c", "200", "-d", "16", "-s", "1048576"},
		{"-c", "200", "-d", "16", "-s", "1048576"},
		{"-w", "-c", "500", "-d", "8", "-s", "65536", "--flush-interval=16"},
	} {
		t.Log(mustTool(t, "qemu-img", append(append([]string{"bench", "-f", "raw", "-t", "none"}, args...), url)...))
	}
}

type mapSums struct{ data, hole int64 }

// mapped sums what GET LBA STATUS says by way of qemu-img map.
func mapped(t *testing.T, url string) mapSums {
	t.Helper()
	var extents []struct {
		Length int64 `json:"length"`
		Data   bool  `json:"data"`
	}
	if err := json.Unmarshal([]byte(mustTool(t, "qemu-img", "map", "-f", "raw", "--output=json", url)), &extents); err != nil {
		t.Fatal(err)
	}
	var s mapSums
	for _, e := range extents {
		if e.Data {
			s.data += e.Length
		} else {
			s.hole += e.Length
		}
	}
	return s
}
