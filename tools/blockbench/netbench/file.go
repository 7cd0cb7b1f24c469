package netbench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"blockd.dev/blockdev/disk"
)

// A file that is moved to another node by the plainest means: pieces are read past the page cache,
// several at a time, go over one TCP connection, and are written past the page cache there. Nothing
// is checked and nothing encrypted. A rebuild has all of this to do, and more.

const (
	filePiece  = 1 << 20 // bytes
	filePieces = 8       // under way, on each side
)

// piece is memory for a part of a file, and one read or write of it at a time.
type piece struct {
	buf  []byte
	done chan error
}

// pieces are used in turns.
type pieces [filePieces]piece

func newPieces() *pieces {
	p := &pieces{}
	for i := range p {
		p[i] = piece{buf: disk.NewAligned(filePiece), done: make(chan error, 1)}
		p[i].done <- nil
	}
	return p
}

// next returns the piece of the i-th turn, once what was done to it has ended.
func (p *pieces) next(i int64) (*piece, error) {
	x := &p[i%filePieces]
	return x, <-x.done
}

// wait waits for all of them, from turn i on.
func (p *pieces) wait(i int64) error {
	var errs []error
	for n := range int64(filePieces) {
		x, err := p.next(i + n)
		x.done <- nil
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// start does something to the piece at off, wherever that is in a file of that size.
func (x *piece) start(do func(b []byte, off int64) (int, error), off, size int64) {
	go func() {
		_, err := do(x.buf, off%size)
		x.done <- err
	}()
}

// openFile opens a file past the page cache and writes all of it, so that there is nothing left for
// the file system to find a place for.
func openFile(path string, size int64) (*os.File, error) {
	if size < filePiece || size%filePiece != 0 {
		return nil, fmt.Errorf("a file of %d bytes: give a multiple of %d", size, filePiece)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o600)
	if err != nil {
		return nil, err
	}
	b := disk.NewAligned(filePiece)
	for i := range b {
		b[i] = byte(i>>8 + i)
	}
	for off := int64(0); off < size && err == nil; off += filePiece {
		_, err = f.WriteAt(b, off)
	}
	if err = errors.Join(err, f.Sync()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// TakeFile writes what a connection brings to a file of that size, from its start again when it is full,
// and says when it is durable. ready is told where it listens.
func TakeFile(ctx context.Context, local netip.AddrPort, path string, size int64, ready func(netip.AddrPort)) (err error) {
	f, err := openFile(path, size)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	ln, err := net.Listen("tcp", local.String())
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	defer ln.Close()
	ready(ln.Addr().(*net.TCPAddr).AddrPort())
	conn, err := ln.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	all := newPieces()
	for i := int64(0); ; i++ {
		x, err := all.next(i)
		if err == nil {
			_, err = io.ReadFull(conn, x.buf)
		}
		if err != nil {
			x.done <- nil
			if errWrite := all.wait(i); errWrite != nil || err != io.EOF {
				return errors.Join(err, errWrite)
			}
			break
		}
		x.start(f.WriteAt, i*filePiece, size)
	}
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return err
	}
	_, err = conn.Write([]byte{1})
	return err
}

// GiveFile sends a file of that size to who takes it, again and again until runtime is over, and returns
// how many MB/s have become durable there.
func GiveFile(ctx context.Context, peer netip.AddrPort, path string, size int64, runtime time.Duration) (mbps float64, err error) {
	f, err := openFile(path, size)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", peer.String())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	all, began := newPieces(), time.Now()
	sent := int64(0) // bytes
	for i := int64(0); ; i++ {
		x, err := all.next(i)
		if err == nil && i >= filePieces {
			_, err = conn.Write(x.buf)
			sent += filePiece
		}
		if err != nil || time.Since(began) >= runtime && sent > 0 {
			x.done <- nil
			if err = errors.Join(err, all.wait(i)); err != nil {
				return 0, fmt.Errorf("send %s to %v: %w", path, peer, err)
			}
			break
		}
		x.start(f.ReadAt, i*filePiece, size)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return 0, fmt.Errorf("%v has not said that all is durable: %w", peer, err)
	}
	return float64(sent) / 1e6 / time.Since(began).Seconds(), nil
}
