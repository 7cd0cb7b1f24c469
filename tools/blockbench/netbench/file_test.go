package netbench

import (
	"bytes"
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What one side reads is what the other has written, all of it, when the rate is told.
func TestFileIsMoved(t *testing.T) {
	const size = 4 * filePiece
	from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(t.TempDir(), "to")
	ready, ended := make(chan netip.AddrPort, 1), make(chan error, 1)
	go func() {
		ended <- TakeFile(context.Background(), here, to, size, func(a netip.AddrPort) {
			// What it has prepared is not what it is to get.
			if err := os.WriteFile(to, make([]byte, size), 0o600); err != nil {
				t.Error(err)
			}
			ready <- a
		})
	}()
	var peer netip.AddrPort
	select {
	case peer = <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	mbps, err := GiveFile(context.Background(), peer, from, size, 50*time.Millisecond)
	if err != nil || mbps <= 0 {
		t.Errorf("%v MB/s, %v", mbps, err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	want, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	n := filePiece // that much was sent at least
	if len(want) != size || !bytes.Equal(got[:n], want[:n]) {
		t.Error("the file that was written is another one")
	}
}

// A side that goes away in the middle is an error at the other, not a rate.
func TestFileThatNobodyKeeps(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	dir := t.TempDir()
	ready := make(chan netip.AddrPort, 1)
	go func() {
		ended <- TakeFile(ctx, here, filepath.Join(dir, "to"), filePiece, func(a netip.AddrPort) { ready <- a })
	}()
	peer := <-ready
	stop := time.AfterFunc(50*time.Millisecond, cancel)
	defer stop.Stop()
	if mbps, err := GiveFile(context.Background(), peer, filepath.Join(dir, "from"), filePiece, time.Minute); err == nil {
		t.Errorf("%v MB/s to a side that has ended", mbps)
	}
	if err := <-ended; err == nil {
		t.Error("who was ended says that it has taken all")
	}
}

func TestFileOfNoPieces(t *testing.T) {
	if _, err := GiveFile(context.Background(), here, filepath.Join(t.TempDir(), "f"), filePiece+1, 0); err == nil {
		t.Error("a file that is no multiple of a piece is sent")
	}
}
