package nvmetcp_test

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp"
	"blockd.dev/target/nvmetcp/pdu"
)

// keeping is a device that hands its first reads to the test, and does the later ones at once.
type keeping struct {
	blockdev.Device
	keep atomic.Int32
	kept chan *blockdev.Request
}

func (d *keeping) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		if d.keep.Add(-1) >= 0 {
			d.kept <- r
		} else {
			d.Device.Submit([]*blockdev.Request{r})
		}
	}
}

// accepting hands over the connections that it accepts.
type accepting struct {
	net.Listener
	conns chan *net.TCPConn
}

func (l *accepting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.conns <- c.(*net.TCPConn)
	}
	return c, err
}

// A connection that can't send any more ends, with commands that wait for the buffers of others: these
// don't go on while an answer that nobody gets gives its buffer back.
func TestParkedCommandsOfAConnectionThatCantAnswer(t *testing.T) {
	dev := &keeping{kept: make(chan *blockdev.Request, 2)}
	dev.keep.Store(2)
	const length = nvme.MaxTransferBytes // as much as a connection has for all its commands
	b := newBedOf(t, nvmetcp.Limits{BufferBytes: length}, nil, func(d blockdev.Device) blockdev.Device {
		dev.Device = d
		return dev
	})
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := &accepting{inner, make(chan *net.TCPConn, 2)}
	served := make(chan error, 1)
	go func() { served <- b.server.Serve(ln, 1) }()
	t.Cleanup(func() {
		_ = ln.Close()
		if err := <-served; !errors.Is(err, nvmetcp.ErrClosed) && !errors.Is(err, net.ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	b.addr = ln.Addr().String()
	io := b.queueWire(0)
	<-ln.conns // of the admin queue
	ours := <-ln.conns

	var read pdu.CapsuleCmd
	read.SQE[0], read.SQE[1], read.SQE[4], read.SQE[39] = nvme.OpRead, 0x40, 1, 0x5a
	binary.LittleEndian.PutUint32(read.SQE[32:], length)
	binary.LittleEndian.PutUint16(read.SQE[48:], uint16(length/b.device.Geometry().BlockSize-1))
	for id := range byte(3) {
		read.SQE[2] = id
		io.send(read.Append(nil, &pdu.Layout{}, 0))
	}
	first := <-dev.kept
	b.await("two commands that wait for the first one's buffer", func() bool {
		parked := uint64(0)
		for _, s := range b.server.Sessions() {
			parked += s.Stats.Parked
		}
		return parked == 2
	})
	if err := ours.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		dev.Device.Submit([]*blockdev.Request{first})
		second := <-dev.kept // its answer is the first that finds that there can be none
		dev.Device.Submit([]*blockdev.Request{second})
	}()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("an answer waits for itself")
	}
	_ = io.Close()
	b.await("the end of the connection", func() bool { return len(b.server.Sessions()) == 1 })
}
