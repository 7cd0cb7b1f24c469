package pump

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what a client measured.
type Result struct {
	Ops     int64         `json:"ops"`
	Elapsed time.Duration `json:"elapsed_ns"`
	IOPS    float64       `json:"iops"`
	P50     time.Duration `json:"p50_ns"`
	P99     time.Duration `json:"p99_ns"`
}

// Dialect makes requests those of a storage protocol, and tells which one a
// reply answers. It belongs to one connection.
type Dialect interface {
	// Aim writes the request of a slot, which is to be sent next.
	Aim(request []byte, slot int)
	// HeadLen is the length of a reply's header in bytes.
	HeadLen() int
	// Answer reads the header of what arrives. It returns how many bytes follow
	// it, and which slot's request is done when they are here, -1 for none. It
	// fails when the request has.
	Answer(head []byte) (slot, follow int, err error)
}

// Dialer connects to a server. end is called when the measurement is over.
type Dialer func(ctx context.Context) (conn *net.TCPConn, d Dialect, end func(), err error)

// Bare is a Dialer of the server of this package: replies come in the order of
// the requests.
func Bare(addr string, s Shape) Dialer {
	return func(ctx context.Context) (*net.TCPConn, Dialect, func(), error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return nil, nil, nil, err
		}
		return c.(*net.TCPConn), &bare{shape: s}, func() { _ = c.Close() }, nil // nothing is lost
	}
}

type bare struct {
	shape Shape
	next  uint64
}

// Aim numbers the request, as every protocol does.
func (b *bare) Aim(request []byte, _ int) {
	if len(request) >= 8 {
		b.next++
		binary.LittleEndian.PutUint64(request, b.next)
	}
}

func (b *bare) HeadLen() int { return min(b.shape.Reply, 24) }

func (b *bare) Answer([]byte) (slot, follow int, err error) {
	return inOrder, b.shape.Reply - b.HeadLen(), nil
}

// inOrder stands for the oldest request's slot.
const inOrder = -2

// Run measures a server for d after a warm-up of a tenth of it, over so many
// connections, and for longer if some have not had a reply by then. With spin it polls them from one locked thread; otherwise each
// has a goroutine that blocks.
func Run(ctx context.Context, dial Dialer, s Shape, connections int, d time.Duration, spin bool) (Result, error) {
	if err := s.validate(); err != nil {
		return Result{}, err
	}
	clients := make([]*client, 0, connections)
	for range connections {
		conn, dialect, end, err := dial(ctx)
		if err != nil {
			return Result{}, err
		}
		defer end()
		_ = conn.SetNoDelay(true)
		c, err := newClient(conn, dialect, s)
		if err != nil {
			return Result{}, err
		}
		clients = append(clients, c)
	}
	begin := time.Now()
	warm := begin.Add(d / 10)
	end := warm.Add(d)
	for _, c := range clients {
		c.begin(begin, warm)
	}
	var err error
	if spin {
		err = runSpinning(ctx, clients, end)
	} else {
		err = runBlocking(ctx, clients, end)
	}
	if err != nil {
		return Result{}, fmt.Errorf("pump: %w", err)
	}
	elapsed := time.Since(warm)
	hist := newHistogram()
	for _, c := range clients {
		hist.Merge(c.hist)
	}
	return Result{Ops: hist.TotalCount(), Elapsed: elapsed, IOPS: float64(hist.TotalCount()) / elapsed.Seconds(),
		P50: time.Duration(hist.ValueAtQuantile(50)), P99: time.Duration(hist.ValueAtQuantile(99))}, nil
}

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(100, int64(time.Minute), 3) }

// client is one connection that keeps all its slots' requests in flight. What
// arrives is counted and dropped; only headers are looked at.
type client struct {
	conn    *net.TCPConn
	raw     syscall.RawConn
	dialect Dialect
	size    int // of a request

	requests []byte // by slot
	sent     []time.Time
	warm     time.Time
	hist     *hdrhistogram.Histogram

	order ring // slots in flight, the oldest first
	owed  ring // slots to be sent
	at    int  // bytes of the first of them that are out
	list  [][]byte

	in   []byte
	head []byte // of what is arriving
	have int    // bytes of head that are here
	slot int    // that it answers
	skip int    // bytes that are to follow it

	n       int
	errno   syscall.Errno
	readFn  func(fd uintptr) bool
	writeFn func(fd uintptr) bool
}

// ring is a queue of slots with room for all of them.
type ring struct {
	slots    []int
	first, n int
}

func (r *ring) push(slot int) {
	r.slots[(r.first+r.n)%len(r.slots)] = slot
	r.n++
}

func (r *ring) at(i int) int { return r.slots[(r.first+i)%len(r.slots)] }

func (r *ring) pop() int {
	slot := r.slots[r.first]
	r.first = (r.first + 1) % len(r.slots)
	r.n--
	return slot
}

func newClient(conn *net.TCPConn, d Dialect, s Shape) (*client, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, raw: raw, dialect: d, size: s.Request, hist: newHistogram(),
		requests: make([]byte, s.Depth*s.Request), sent: make([]time.Time, s.Depth),
		in: make([]byte, inputLen), head: make([]byte, d.HeadLen())}
	c.order.slots, c.owed.slots = make([]int, s.Depth), make([]int, s.Depth)
	c.readFn = func(fd uintptr) bool {
		c.n, c.errno = readOnce(fd, c.in)
		return true
	}
	c.writeFn = func(fd uintptr) bool {
		c.errno = c.send(fd)
		return true
	}
	return c, nil
}

// begin makes every slot's first request.
func (c *client) begin(now, warm time.Time) {
	c.warm = warm
	for slot := range c.sent {
		c.ask(slot, now)
	}
}

// ask makes a slot's next request, which send sends.
func (c *client) ask(slot int, now time.Time) {
	c.dialect.Aim(c.request(slot), slot)
	c.sent[slot] = now
	c.order.push(slot)
	c.owed.push(slot)
}

func (c *client) request(slot int) []byte { return c.requests[slot*c.size:][:c.size] }

// took takes note of what arrived.
func (c *client) took(p []byte, now time.Time) error {
	for len(p) > 0 {
		if c.skip == 0 {
			n := copy(c.head[c.have:], p)
			c.have += n
			p = p[n:]
			if c.have < len(c.head) {
				return nil
			}
			c.have = 0
			var err error
			if c.slot, c.skip, err = c.dialect.Answer(c.head); err != nil {
				return err
			}
		}
		n := min(c.skip, len(p))
		c.skip -= n
		p = p[n:]
		if c.skip > 0 {
			return nil
		}
		if err := c.answered(now); err != nil {
			return err
		}
	}
	return nil
}

// answered ends the request that a reply was for, and makes the next.
func (c *client) answered(now time.Time) error {
	slot := c.slot
	if slot == -1 {
		return nil
	}
	if c.order.n == 0 || slot >= len(c.sent) {
		return fmt.Errorf("a reply to request %d, which was not made", slot)
	}
	oldest := c.order.pop()
	if slot == inOrder {
		slot = oldest
	}
	if at := c.sent[slot]; at.After(c.warm) {
		_ = c.hist.RecordValue(min(int64(now.Sub(at)), int64(time.Minute))) // in its range
	}
	c.ask(slot, now)
	return nil
}

// counted reports whether there is anything to tell of.
func (c *client) counted() bool { return c.hist.TotalCount() > 0 }

// vectors lists at most n requests that are owed.
func (c *client) vectors(n int) [][]byte {
	c.list = c.list[:0]
	for i := range min(n, c.owed.n) {
		c.list = append(c.list, c.request(c.owed.at(i)))
	}
	if len(c.list) > 0 {
		c.list[0] = c.list[0][c.at:]
	}
	return c.list
}

// wrote takes note of n bytes that are out.
func (c *client) wrote(n int) {
	n += c.at
	for ; n >= c.size; n -= c.size {
		c.owed.pop()
	}
	c.at = n
}

// poll reads once.
func (c *client) poll() error {
	if err := c.raw.Read(c.readFn); err != nil {
		return err
	}
	switch c.errno {
	case 0:
		if c.n == 0 {
			return io.ErrUnexpectedEOF
		}
		return c.took(c.in[:c.n], time.Now())
	case syscall.EAGAIN, syscall.EINTR:
		return nil
	}
	return c.errno
}

// push sends what is owed as far as the socket takes it.
func (c *client) push() error {
	if c.owed.n == 0 {
		return nil
	}
	if err := c.raw.Write(c.writeFn); err != nil {
		return err
	}
	switch c.errno {
	case 0, syscall.EAGAIN, syscall.EINTR:
		return nil
	}
	return c.errno
}

func runSpinning(ctx context.Context, clients []*client, end time.Time) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for ctx.Err() == nil {
		over := time.Now().After(end)
		for _, c := range clients {
			over = over && c.counted()
		}
		if over {
			return nil
		}
		for _, c := range clients {
			if err := c.push(); err != nil {
				return err
			}
			if err := c.poll(); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

func runBlocking(ctx context.Context, clients []*client, end time.Time) error {
	errs := make([]error, len(clients))
	var wg sync.WaitGroup
	for i, c := range clients {
		defer context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Now()) })()
		wg.Go(func() { errs[i] = c.block(end) })
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	return errors.Join(errs...)
}

// block sends and waits in turn until end.
func (c *client) block(end time.Time) error {
	_ = c.conn.SetReadDeadline(end.Add(10 * time.Second))
	for {
		for c.owed.n > 0 {
			list := net.Buffers(c.vectors(len(c.sent)))
			n, err := list.WriteTo(c.conn)
			c.wrote(int(n))
			if err != nil {
				return err
			}
		}
		n, err := c.conn.Read(c.in)
		if err != nil {
			return err
		}
		now := time.Now()
		if now.After(end) && c.counted() {
			return nil
		}
		if err := c.took(c.in[:n], now); err != nil {
			return err
		}
	}
}
