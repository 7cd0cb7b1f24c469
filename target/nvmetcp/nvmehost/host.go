package nvmehost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"blockd.dev/internal/adaptive"
	"blockd.dev/target/auth"
	"blockd.dev/target/nvme"
)

// Config says what to connect to and how. Addr, SubNQN and HostNQN are
// required.
type Config struct {
	Addr            string // host:port
	SubNQN, HostNQN string
	HostID          [16]byte
	Queues          int // I/O queues; default 1, none for a discovery subsystem
	Depth           int // commands per I/O queue; default 128
	HeaderDigest    bool
	DataDigest      bool
	HPDA            uint8           // alignment of received data, 0's based in dwords
	SQFlow          bool            // keep submission queue flow control
	NoInline        bool            // no data in capsules of I/O queues
	KeepAlive       time.Duration   // KATO, and how long the admin queue may be silent; 0 means none
	Timeout         time.Duration   // how long a queue with commands may be silent; default 30 s
	Poll            adaptive.Config // how the sockets are waited for

	// Key proves the host, Controller is what the controller must prove.
	Key, Controller auth.DHKey
	Hashes          []auth.DHHash
	Groups          []auth.DHGroup

	// Event is told of asynchronous events, after the namespaces are up to
	// date; nil drops them.
	Event func(AsyncEvent)
}

// AsyncEvent is Dword 0 of a completed Asynchronous Event Request (NVMe Base
// 2.0 §5.2.1).
type AsyncEvent struct {
	Type, Info, Log uint8
}

// adminDepth is the size of the admin queue.
const adminDepth = 32

// Host is an association with one controller. All methods may be called from
// any goroutine.
type Host struct {
	cfg    Config
	admin  *queue
	queues []*queue
	cntlid uint16
	ident  [4096]byte
	mdts   int // longest transfer in bytes

	wg    sync.WaitGroup
	stop  chan struct{}
	gone  chan struct{} // closed when the first connection has ended
	ended sync.Once

	mu struct {
		sync.Mutex
		namespaces []*Namespace
		opened     []*queue // the admin queue first
		closed     bool
	}
}

var errClosed = errors.New("nvmehost: closed")

// Dial connects, authenticates and enables a controller, and connects its I/O
// queues.
func Dial(cfg Config) (*Host, error) {
	if cfg.Queues == 0 {
		cfg.Queues = 1
	}
	if cfg.Depth == 0 {
		cfg.Depth = 128
	}
	if cfg.SubNQN == nvme.DiscoveryNQN {
		cfg.Queues = 0
	}
	h := &Host{cfg: cfg, stop: make(chan struct{}), gone: make(chan struct{})}
	h.wg.Add(1)
	go h.watchSilence()
	if err := h.dial(); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

func (h *Host) dial() error {
	var err error
	if h.admin, err = h.open(adminDepth); err != nil {
		return err
	}
	h.admin.inline = 8 << 10
	if err := h.connect(h.admin, 0, adminDepth); err != nil {
		return err
	}
	if err := h.enable(); err != nil {
		return err
	}
	if err := h.identify(); err != nil {
		return err
	}
	if h.cfg.Queues > 0 {
		n := uint32(h.cfg.Queues - 1)
		c := &Call{}
		c.command(nvme.OpSetFeatures, 0)
		c.dword(10, 0x07)
		c.dword(11, n<<16|n)
		if err := h.Admin(c); err != nil {
			return fmt.Errorf("nvmehost: number of queues: %w", err)
		}
		if got := int(c.Result&0xffff) + 1; got < h.cfg.Queues {
			return fmt.Errorf("nvmehost: the controller grants %d I/O queues, not %d", got, h.cfg.Queues)
		}
	}
	inline := h.InCapsuleBytes()
	for i := range h.cfg.Queues {
		q, err := h.open(h.cfg.Depth)
		if err != nil {
			return err
		}
		h.queues = append(h.queues, q)
		q.inline = 8 << 10 // for Connect
		if err := h.connect(q, uint16(i+1), h.cfg.Depth); err != nil {
			return err
		}
		q.inline = inline
	}
	h.wg.Add(1)
	go h.keepAlive()
	return nil
}

// InCapsuleBytes is how much data a command of an I/O queue may bring along
// (IOCCSZ, NVMe Base 2.0 figure "Identify Controller Data Structure").
func (h *Host) InCapsuleBytes() int {
	if h.cfg.NoInline {
		return 0
	}
	return max(int(binary.LittleEndian.Uint32(h.ident[1792:]))*16-64, 0)
}

// Close ends the association.
func (h *Host) Close() {
	h.mu.Lock()
	if h.mu.closed {
		h.mu.Unlock()
		return
	}
	h.mu.closed = true
	h.mu.Unlock()
	close(h.stop)
	for _, q := range h.queues {
		q.close(errClosed)
	}
	if h.admin != nil {
		h.admin.close(errClosed)
	}
	h.wg.Wait()
}

// Gone is closed when a connection of the association has ended, for whatever
// reason: some requests end with blockdev.ErrGone from then on, soon all.
func (h *Host) Gone() <-chan struct{} { return h.gone }

// CNTLID is the controller's id.
func (h *Host) CNTLID() uint16 { return h.cntlid }

// Identify is the controller's data structure (NVMe Base 2.0 §5.17.2.1).
func (h *Host) Identify() []byte { return h.ident[:] }

// Take gives away the connection of I/O queue i, from 0, to a caller who speaks
// the protocol on it from then on; no command may be under way. It is still the
// host's to close. Header digests and the like are as configured.
func (h *Host) Take(i int) (*net.TCPConn, error) { return h.queues[i].take() }

// do runs a call on a queue and waits.
func do(q *queue, c *Call) error {
	done := make(chan struct{})
	c.Done = func(*Call) { close(done) }
	q.submit(c)
	q.flush()
	<-done
	return c.err()
}

// Admin runs a command on the admin queue and waits for its end.
func (h *Host) Admin(c *Call) error { return do(h.admin, c) }

// IO runs a command on I/O queue i, from 0, and waits for its end.
func (h *Host) IO(i int, c *Call) error { return do(h.queues[i], c) }

// Fused runs two commands as a fused pair on I/O queue i and waits for both.
func (h *Host) Fused(i int, a, b *Call) (errA, errB error) {
	var wg sync.WaitGroup
	wg.Add(2)
	a.Done = func(*Call) { wg.Done() }
	b.Done = a.Done
	a.SQE[1], b.SQE[1] = 1, 2
	a.fused = b
	h.queues[i].submit(a)
	h.queues[i].flush()
	wg.Wait()
	return a.err(), b.err()
}

// connect turns a connection into a queue of the controller (§6.3), and
// authenticates it.
func (h *Host) connect(q *queue, qid uint16, depth int) error {
	data := make([]byte, nvme.ConnectDataBytes)
	copy(data, h.cfg.HostID[:])
	cntlid := uint16(0xffff)
	if qid != 0 {
		cntlid = h.cntlid
	}
	binary.LittleEndian.PutUint16(data[16:], cntlid)
	copy(data[256:511], h.cfg.SubNQN)
	copy(data[512:767], h.cfg.HostNQN)
	c := &Call{Data: [][]byte{data}, Out: true}
	c.SQE[0], c.SQE[4] = nvme.OpFabrics, nvme.FabricsConnect
	binary.LittleEndian.PutUint16(c.SQE[42:], qid)
	binary.LittleEndian.PutUint16(c.SQE[44:], uint16(depth-1))
	if !h.cfg.SQFlow {
		c.SQE[46] = 1 << 2
	}
	if qid == 0 {
		binary.LittleEndian.PutUint32(c.SQE[48:], uint32(h.cfg.KeepAlive.Milliseconds()))
	}
	if err := do(q, c); err != nil {
		return fmt.Errorf("nvmehost: connect of queue %d: %w", qid, err)
	}
	if qid == 0 {
		h.cntlid = uint16(c.Result)
	}
	if c.Result&(3<<17) != 0 {
		return h.authenticate(q)
	}
	return nil
}

// Authenticate proves the host again on the admin queue.
func (h *Host) Authenticate() error { return h.authenticate(h.admin) }

// authenticate runs one authentication transaction.
func (h *Host) authenticate(q *queue) error {
	p := auth.DHHost{Key: h.cfg.Key, Controller: h.cfg.Controller, HostNQN: h.cfg.HostNQN, SubNQN: h.cfg.SubNQN,
		Hashes: h.cfg.Hashes, Groups: h.cfg.Groups}
	msg, done := p.Negotiate(1), false
	var verdict error
	for {
		if msg != nil {
			if err := do(q, authCall(nvme.FabricsAuthSend, msg)); err != nil {
				return errors.Join(verdict, err)
			}
		}
		if done {
			return verdict
		}
		c := authCall(nvme.FabricsAuthReceive, make([]byte, auth.DHMessageMax))
		if err := do(q, c); err != nil {
			return err
		}
		msg, done, verdict = p.Answer(c.Data[0])
	}
}

func authCall(fctype uint8, msg []byte) *Call {
	c := &Call{Data: [][]byte{msg}, Out: fctype == nvme.FabricsAuthSend}
	c.SQE[0], c.SQE[4] = nvme.OpFabrics, fctype
	c.SQE[41], c.SQE[42], c.SQE[43] = 1, 1, 0xe9
	c.dword(11, uint32(len(msg)))
	return c
}

// Property reads a controller property.
func (h *Host) Property(off uint32, wide bool) (uint64, error) {
	c := &Call{}
	c.SQE[0], c.SQE[4] = nvme.OpFabrics, nvme.FabricsPropertyGet
	c.SQE[40] = byte(btoi(wide))
	c.dword(11, off)
	err := h.Admin(c)
	return c.Result, err
}

// SetProperty writes a controller property of four bytes.
func (h *Host) SetProperty(off, value uint32) error {
	c := &Call{}
	c.SQE[0], c.SQE[4] = nvme.OpFabrics, nvme.FabricsPropertySet
	c.dword(11, off)
	c.dword(12, value)
	return h.Admin(c)
}

// The properties (NVMe Base 2.0 §3.1.3).
const (
	PropCAP  = 0x00
	PropVS   = 0x08
	PropCC   = 0x14
	PropCSTS = 0x1c
)

// enable starts the controller: CC.EN with entry sizes of 64 and 16 bytes, and
// all command sets when it has them.
func (h *Host) enable() error {
	capability, err := h.Property(PropCAP, true)
	if err != nil {
		return err
	}
	cc := uint32(4<<20 | 6<<16 | 1)
	if capability>>37&(1<<6) != 0 {
		cc |= 6 << 4
	}
	if err := h.SetProperty(PropCC, cc); err != nil {
		return err
	}
	for range 1000 {
		s, err := h.Property(PropCSTS, false)
		if err != nil {
			return err
		}
		switch {
		case s&2 != 0:
			return errors.New("nvmehost: the controller failed to start: CSTS.CFS")
		case s&1 != 0:
			return nil
		}
	}
	return errors.New("nvmehost: the controller does not become ready")
}

func (h *Host) identify() error {
	c := &Call{Data: [][]byte{h.ident[:]}}
	c.command(nvme.OpIdentify, 0)
	c.dword(10, 0x01)
	if err := h.Admin(c); err != nil {
		return fmt.Errorf("nvmehost: identify controller: %w", err)
	}
	h.mdts = 1 << 20
	if m := h.ident[77]; m > 0 && m < 9 {
		h.mdts = 4096 << m
	}
	return nil
}

// LogPage reads n bytes of a log page, a multiple of 4.
func (h *Host) LogPage(id uint8, off uint64, n int) ([]byte, error) {
	buf := make([]byte, n)
	c := &Call{Data: [][]byte{buf}}
	c.command(nvme.OpGetLogPage, nvme.NSIDAll)
	words := uint32(n/4 - 1)
	c.dword(10, words<<16|uint32(id))
	c.dword(11, words>>16)
	c.dword(12, uint32(off))
	c.dword(13, uint32(off>>32))
	if err := h.Admin(c); err != nil {
		return nil, fmt.Errorf("nvmehost: log page %02xh: %w", id, err)
	}
	return buf, nil
}

// ActiveNamespaces lists the NSIDs that the host sees.
func (h *Host) ActiveNamespaces() ([]uint32, error) {
	buf := make([]byte, 4096)
	c := &Call{Data: [][]byte{buf}}
	c.command(nvme.OpIdentify, 0)
	c.dword(10, 0x02)
	if err := h.Admin(c); err != nil {
		return nil, err
	}
	var out []uint32
	for i := 0; i < len(buf); i += 4 {
		id := binary.LittleEndian.Uint32(buf[i:])
		if id == 0 {
			break
		}
		out = append(out, id)
	}
	return out, nil
}

// keepAlive sends a Keep Alive twice per timeout until Close.
func (h *Host) keepAlive() {
	defer h.wg.Done()
	if h.cfg.KeepAlive == 0 {
		return
	}
	t := time.NewTicker(h.cfg.KeepAlive / 2)
	defer t.Stop()
	for {
		select {
		case <-h.stop:
			return
		case <-t.C:
			c := &Call{}
			c.command(nvme.OpKeepAlive, 0)
			if h.Admin(c) != nil {
				return
			}
		}
	}
}

// WatchEvents keeps one Asynchronous Event Request with the controller from
// now on: namespaces learn of new sizes, and Config.Event is called.
func (h *Host) WatchEvents() {
	h.wg.Add(1)
	go func() {
		defer h.wg.Done()
		for {
			c := &Call{}
			c.command(nvme.OpAsyncEventRequest, 0)
			if h.Admin(c) != nil {
				return
			}
			ev := AsyncEvent{Type: uint8(c.Result & 7), Info: uint8(c.Result >> 8), Log: uint8(c.Result >> 16)}
			if ev.Log != 0 {
				if _, err := h.LogPage(ev.Log, 0, 4096); err != nil && isGone(err) {
					return
				}
			}
			h.refresh()
			if h.cfg.Event != nil {
				h.cfg.Event(ev)
			}
		}
	}()
}

// isGone reports whether an error is the connection's and not a status.
func isGone(err error) bool {
	var s *StatusError
	return !errors.As(err, &s)
}

// refresh reads the sizes of the namespaces again.
func (h *Host) refresh() {
	h.mu.Lock()
	list := append([]*Namespace(nil), h.mu.namespaces...)
	h.mu.Unlock()
	for _, n := range list {
		n.refresh()
	}
}
