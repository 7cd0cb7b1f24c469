package nvmehost_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/fault"
	"blockd.dev/blockdev/ram"
	"blockd.dev/target/nvmetcp"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/target/nvmetcp/pdu"
)

// wire is a proxy before a target that can be cut without anybody being told.
type wire struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
	mute  bool
	wg    sync.WaitGroup
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{Listener: ln}
	w.wg.Go(func() {
		for {
			a, err := ln.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				_ = a.Close()
				continue
			}
			w.mu.Lock()
			w.conns = append(w.conns, a, b)
			w.mu.Unlock()
			w.wg.Go(func() { w.copy(b, a) })
			w.wg.Go(func() { w.copy(a, b) })
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		w.mu.Lock()
		for _, c := range w.conns {
			_ = c.Close()
		}
		w.mu.Unlock()
		w.wg.Wait()
	})
	return w
}

// copy moves bytes and the end after them. When the wire is cut it swallows both: a
// target that misses its host closes the connection, and the host must not hear of it.
func (w *wire) copy(to io.WriteCloser, from io.Reader) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		w.mu.Lock()
		mute := w.mute
		w.mu.Unlock()
		if !mute {
			if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
				_ = to.Close()
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (w *wire) cut() {
	w.mu.Lock()
	w.mute = true
	w.mu.Unlock()
}

func dialThrough(t *testing.T, d blockdev.Device, cfg nvmehost.Config) (*nvmehost.Host, *wire) {
	t.Helper()
	addr, _ := serve(t, d, nvmetcp.Limits{})
	w := newWire(t, addr)
	cfg.Addr, cfg.SubNQN, cfg.HostNQN = w.Addr().String(), subNQN, "nqn.2014-08.org.nvmexpress:uuid:host"
	cfg.HostID[0] = 1
	h, err := nvmehost.Dial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	return h, w
}

// patience is how long hosts wait for a target that is silent: much longer than one that is not takes
// to answer on a slow machine, where it has been 0.7 s.
const patience = 3 * time.Second

// A target that stops answering is noticed: by a command that gets no answer, and
// on an idle association by its Keep Alive.
func TestSilenceIsNoticed(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg   nvmehost.Config
		queue int
	}{
		"command":    {nvmehost.Config{Timeout: patience}, 1},
		"keep alive": {nvmehost.Config{KeepAlive: patience}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, w := dialThrough(t, ramDevice(t, ram.Config{SizeBytes: 8 << 20}), tc.cfg)
			n, err := h.Namespace(1)
			if err != nil {
				t.Fatal(err)
			}
			h.WatchEvents() // its request waits for ever, and is no sign of silence
			if err := blockdev.ReadAt(n, make([]byte, 512), 0); err != nil {
				t.Fatal(err)
			}
			w.cut()
			err = blockdev.ReadAt(n, make([]byte, 512), 0)
			var silent *nvmehost.SilenceError
			if !errors.Is(err, blockdev.ErrGone) || !errors.As(err, &silent) || silent.Queue != tc.queue {
				t.Fatalf("a read ends with %v", err)
			}
			if _, err := h.LogPage(0x02, 0, 512); !errors.As(err, &silent) {
				t.Errorf("the admin queue lives on: %v", err)
			}
		})
	}
}

// A target that takes the connection and never answers the Connect is given up, with a reset:
// what the kernel has not delivered by then never is.
func TestSilenceWhileDialing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			ended <- err
			return
		}
		defer c.Close()
		buf := make([]byte, pdu.ICLen)
		if _, err = io.ReadFull(c, buf); err == nil {
			resp := pdu.IC{Resp: true, Limit: 4096}
			_, err = c.Write(resp.Append(nil))
		}
		if err == nil {
			_, err = io.Copy(io.Discard, c) // until the host gives up
		}
		ended <- err
	}()
	h, err := nvmehost.Dial(nvmehost.Config{Addr: ln.Addr().String(), SubNQN: subNQN,
		HostNQN: "nqn.2014-08.org.nvmexpress:uuid:host", HostID: [16]byte{1}, Timeout: 300 * time.Millisecond})
	var silent *nvmehost.SilenceError
	if !errors.As(err, &silent) {
		t.Errorf("dial ends with %v, %v", h, err)
	}
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v", err)
	}
	_ = ln.Close()
}

// A slow command is not silence of the target as long as Keep Alive is answered.
func TestSlowIsNotSilent(t *testing.T) {
	t.Parallel()
	f := fault.New(ramDevice(t, ram.Config{SizeBytes: 8 << 20}), nil)
	h, _ := dialThrough(t, f, nvmehost.Config{KeepAlive: patience})
	n, err := h.Namespace(1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.AddText("read hang"); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- blockdev.ReadAt(n, make([]byte, 512), 0) }()
	select {
	case err := <-done:
		t.Fatalf("the read ended: %v", err)
	case <-time.After(patience + patience/2): // more than the keep-alive timeout
	}
	f.Clear()
	f.Resume()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
