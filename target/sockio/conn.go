package sockio

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"blockd.dev/internal/adaptive"
	"blockd.dev/internal/turn"
)

// Config sets a Conn's limits. The zero value means the defaults.
type Config struct {
	// Poll says how the reader waits for bytes; any mode but Busy.
	Poll adaptive.Config
	// Soon is who sends what Flush was called for, if a turn is under way: once for all
	// answers that the turn brings.
	Soon turn.Soon
	// OutHighBytes is the queued output above which Congested reports true;
	// default 4 MiB.
	OutHighBytes int
}

const defaultOutHigh = 4 << 20

// Conn is one connection. Read and Readv belong to one goroutine, the reader;
// Append, Flush, Close and the rest may be called from any.
type Conn struct {
	tcp *net.TCPConn
	raw syscall.RawConn

	rx reader
	tx writer

	turn   turn.Turn // of the reader, while it is corked
	closed atomic.Bool
}

// New takes over conn. Closing the Conn closes it.
func New(conn *net.TCPConn, cfg Config) (*Conn, error) {
	if cfg.Poll.Mode == adaptive.Busy {
		// It would never see a deadline or a Close.
		return nil, errors.New("sockio: poll mode busy: use adaptive or interrupt")
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	if cfg.OutHighBytes <= 0 {
		cfg.OutHighBytes = defaultOutHigh
	}
	c := &Conn{tcp: conn, raw: raw}
	c.rx.init(cfg.Poll)
	c.tx.init(c, cfg.OutHighBytes, cfg.Soon)
	return c, nil
}

// RemoteAddr is the peer's address.
func (c *Conn) RemoteAddr() net.Addr { return c.tcp.RemoteAddr() }

// LocalAddr is this side's address.
func (c *Conn) LocalAddr() net.Addr { return c.tcp.LocalAddr() }

// SetReadDeadline makes a parked or later Read fail with
// os.ErrDeadlineExceeded after t; the zero time removes the deadline.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.tcp.SetReadDeadline(t) }

// Close closes the socket at once. Output not yet sent is dropped, and the
// Sent of everything queued is called before or soon after Close returns.
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	err := c.tcp.Close()
	c.tx.fail(net.ErrClosed)
	return err
}

// Stats counts what a Conn did since it was made.
type Stats struct {
	Reads    uint64 // reads that returned data
	BytesIn  uint64
	Writes   uint64 // writev calls that sent data
	BytesOut uint64
	Stalls   uint64         // times that the peer's window was full
	Poll     adaptive.Stats // how the reader waited
}

// Stats returns the counters; each is exact, together they are not a snapshot.
func (c *Conn) Stats() Stats {
	r, w := &c.rx, &c.tx
	poll := r.poller.Stats()
	poll.Add(r.answers.Stats())
	return Stats{
		Reads:    r.reads.Load(),
		BytesIn:  r.bytes.Load(),
		Writes:   w.writes.Load(),
		BytesOut: w.bytes.Load(),
		Stalls:   w.stalls.Load(),
		Poll:     poll,
	}
}
