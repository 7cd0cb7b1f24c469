package nvmehost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"blockd.dev/target/nvmetcp/pdu"
	"blockd.dev/target/sockio"
)

const inputLen = 64 << 10

// queue is one connection. What has no guard belongs to its reader.
type queue struct {
	tcp    *net.TCPConn // what sock reads and writes
	sock   *sockio.Conn
	rules  pdu.Rules
	layout pdu.Layout
	h2cMax int // MAXH2CDATA
	inline int // data that fits a capsule

	in   []byte
	r, w int
	iov  [16][]byte
	segs [][]byte

	mu struct {
		sync.Mutex
		slots   []*Call // by command identifier
		free    []uint16
		waiting *Call // in line for a slot
		last    *Call
		err     error // the connection failed
		taken   bool  // the connection outlives its reader
	}
	ended func()        // called by the reader when it has ended every call
	done  chan struct{} // closed when the reader is gone
}

// openQueue connects and initialises a connection (NVMe TCP 1.0 §3.3.1). ended is
// called once when the connection has ended.
func openQueue(cfg *Config, depth int, ended func()) (*queue, error) {
	nc, err := net.DialTimeout("tcp", cfg.Addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	tcp := nc.(*net.TCPConn)
	_ = tcp.SetNoDelay(true)
	// When the connection is given up, the kernel forgets what it has not delivered, as with
	// Linux's host: a command must not come late, after another path has done it.
	_ = tcp.SetLinger(0)
	req := pdu.IC{PDA: cfg.HPDA, HeaderDigest: cfg.HeaderDigest, DataDigest: cfg.DataDigest}
	_ = tcp.SetDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, pdu.ICLen)
	var resp pdu.IC
	if _, err = tcp.Write(req.Append(nil)); err == nil {
		if _, err = io.ReadFull(tcp, buf); err == nil {
			_, err = resp.Decode(buf)
		}
	}
	if err == nil && (!resp.Resp || resp.HeaderDigest != req.HeaderDigest || resp.DataDigest != req.DataDigest) {
		err = errors.New("nvmehost: the ICResp does not agree with the ICReq")
	}
	if err != nil {
		_ = tcp.Close()
		return nil, fmt.Errorf("nvmehost: %s: %w", cfg.Addr, err)
	}
	_ = tcp.SetDeadline(time.Time{})
	sock, err := sockio.New(tcp, sockio.Config{Poll: cfg.Poll})
	if err != nil {
		_ = tcp.Close()
		return nil, err
	}
	q := &queue{tcp: tcp, sock: sock, h2cMax: int(resp.Limit), in: make([]byte, inputLen), ended: ended, done: make(chan struct{})}
	q.rules = pdu.Rules{HeaderDigest: cfg.HeaderDigest, DataDigest: cfg.DataDigest, Align: req.Align()}
	q.layout = pdu.Layout{HeaderDigest: cfg.HeaderDigest, DataDigest: cfg.DataDigest, Align: resp.Align()}
	q.mu.slots = make([]*Call, depth)
	for i := range depth {
		q.mu.free = append(q.mu.free, uint16(depth-1-i))
	}
	go q.run()
	return q, nil
}

// submit sends calls in order, or puts them in line. Nothing leaves before
// flush.
func (q *queue) submit(c *Call) {
	q.mu.Lock()
	if q.mu.err != nil {
		err := q.mu.err
		q.mu.Unlock()
		for c != nil {
			f := c.fused
			c.Err = err
			c.Done(c)
			c = f
		}
		return
	}
	if q.mu.waiting != nil || !q.sendLocked(c) {
		c.next = nil
		if q.mu.waiting == nil {
			q.mu.waiting = c
		} else {
			q.mu.last.next = c
		}
		q.mu.last = c
	}
	q.mu.Unlock()
}

func (q *queue) flush() { q.sock.Flush() }

// sendLocked gives c, and what is fused to it, identifiers and queues their
// capsules; it reports false when there are not enough.
func (q *queue) sendLocked(c *Call) bool {
	if need := 1 + btoi(c.fused != nil); len(q.mu.free) < need {
		return false
	}
	for c != nil {
		f := c.fused
		last := len(q.mu.free) - 1
		cid := q.mu.free[last]
		q.mu.free = q.mu.free[:last]
		q.mu.slots[cid] = c
		q.encode(c, cid)
		c = f
	}
	return true
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// encode queues the capsule of c.
func (q *queue) encode(c *Call, cid uint16) {
	binary.LittleEndian.PutUint16(c.SQE[2:], cid)
	c.SQE[1] = c.SQE[1]&0x03 | 0x40 // SGLs
	c.n = 0
	for _, s := range c.Data {
		c.n += len(s)
	}
	inline := c.Out && c.n > 0 && c.n <= q.inline
	binary.LittleEndian.PutUint64(c.SQE[24:], 0)
	binary.LittleEndian.PutUint32(c.SQE[32:], uint32(c.n))
	binary.LittleEndian.PutUint32(c.SQE[36:], 0)
	c.SQE[39] = 0x5a
	if inline {
		c.SQE[39] = 0x01
	}
	c.refs.Store(1)
	p := pdu.CapsuleCmd{SQE: c.SQE}
	if !inline {
		q.sock.Append(p.Append(c.head[:0], &q.layout, 0), nil, nil, nil)
		return
	}
	c.refs.Add(1)
	q.sendData(p.Append(c.head[:0], &q.layout, c.n), c.Data, c)
}

func (q *queue) sendData(head []byte, segs [][]byte, c *Call) {
	var tail []byte
	if q.layout.DataDigest {
		var crc uint32
		for _, s := range segs {
			crc = pdu.Digest(crc, s)
		}
		tail = pdu.AppendDigest(c.tail[:0], crc)
	}
	q.sock.Append(head, segs, tail, c)
}

// finish takes a call out of its slot, sends what waited for one, and ends it.
func (q *queue) finish(cid uint16, c *Call) {
	q.mu.Lock()
	q.mu.slots[cid] = nil
	q.mu.free = append(q.mu.free, cid)
	for q.mu.waiting != nil {
		w := q.mu.waiting
		next := w.next
		if !q.sendLocked(w) {
			break
		}
		q.mu.waiting = next
	}
	q.mu.Unlock()
	c.unref()
}

// find is the call with an identifier that the controller named.
func (q *queue) find(cid uint16) (*Call, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if int(cid) >= len(q.mu.slots) || q.mu.slots[cid] == nil {
		return nil, fmt.Errorf("nvmehost: the controller answers command %d, which is not under way", cid)
	}
	return q.mu.slots[cid], nil
}

// run reads until the connection ends, and then ends every call.
func (q *queue) run() {
	defer close(q.done)
	defer q.ended()
	err := q.loop()
	q.mu.Lock()
	if !q.mu.taken {
		_ = q.sock.Close()
	}
	if q.mu.err == nil {
		q.mu.err = err
	}
	err = q.mu.err
	var calls []*Call
	for i, c := range q.mu.slots {
		if c != nil {
			calls = append(calls, c)
			q.mu.slots[i] = nil
		}
	}
	var lined []*Call
	for c := q.mu.waiting; c != nil; c = c.next {
		for f := c; f != nil; f = f.fused {
			lined = append(lined, f)
		}
	}
	q.mu.waiting = nil
	q.mu.Unlock()
	for _, c := range calls {
		c.Err = err
		c.unref()
	}
	for _, c := range lined {
		c.Err = err
		c.Done(c)
	}
}

var errTaken = errors.New("nvmehost: the queue's connection was taken")

// take ends the reader of an idle queue and gives away the connection.
func (q *queue) take() (*net.TCPConn, error) {
	q.mu.Lock()
	q.mu.taken, q.mu.err = true, errTaken
	q.mu.Unlock()
	if err := q.sock.SetReadDeadline(time.Now()); err != nil {
		return nil, err
	}
	<-q.done
	return q.tcp, q.tcp.SetReadDeadline(time.Time{})
}

// close ends the connection and waits for its reader.
func (q *queue) close(why error) {
	q.mu.Lock()
	if q.mu.err == nil {
		q.mu.err = why
	}
	q.mu.Unlock()
	_ = q.sock.Close()
	<-q.done
}

func (q *queue) loop() error {
	for {
		for q.w-q.r >= pdu.CommonLen {
			if err := q.serveOne(); err != nil {
				return err
			}
		}
		if err := q.fill(); err != nil {
			return err
		}
	}
}

func (q *queue) fill() error {
	if q.r == q.w {
		q.r, q.w = 0, 0
	} else if q.w == len(q.in) {
		q.w = copy(q.in, q.in[q.r:q.w])
		q.r = 0
	}
	q.sock.Uncork()
	n, err := q.sock.Read(q.in[q.w:])
	if err != nil {
		return err
	}
	q.sock.Cork()
	q.w += n
	return nil
}

func (q *queue) need(n int) error {
	for q.w-q.r < n {
		if q.r+n > len(q.in) {
			q.w = copy(q.in, q.in[q.r:q.w])
			q.r = 0
		}
		if err := q.fill(); err != nil {
			return err
		}
	}
	return nil
}

func (q *queue) serveOne() error {
	var h pdu.Header
	if _, err := h.Decode(q.in[q.r:q.w]); err != nil {
		return err
	}
	f, fe := q.rules.Frame(&h)
	if fe != nil {
		return fe
	}
	if err := q.need(f.DataOff); err != nil {
		return err
	}
	b := q.in[q.r:q.w]
	if f.HDigest && pdu.Digest(0, b[:f.HLen]) != pdu.DigestAt(b[f.HLen:]) {
		return pdu.Fatal(pdu.HeaderDigestError, pdu.DigestAt(b[f.HLen:]))
	}
	switch h.Type {
	case pdu.TypeCapsuleResp:
		var p pdu.CapsuleResp
		if _, err := p.Decode(b); err != nil {
			return err
		}
		q.r += f.Total
		cid := binary.LittleEndian.Uint16(p.CQE[12:])
		c, err := q.find(cid)
		if err != nil {
			return err
		}
		c.Result = binary.LittleEndian.Uint64(p.CQE[:])
		if s := binary.LittleEndian.Uint16(p.CQE[14:]) >> 1; s != 0 {
			c.Status = s
		}
		q.finish(cid, c)
		return nil
	case pdu.TypeC2HData:
		return q.receive(&f, b)
	case pdu.TypeR2T:
		return q.transfer(&f, b)
	case pdu.TypeC2HTermReq:
		if err := q.need(f.Total); err != nil {
			return err
		}
		var t pdu.TermReq
		if _, err := t.Decode(q.in[q.r : q.r+f.Total]); err != nil {
			return err
		}
		return fmt.Errorf("nvmehost: the controller terminated the connection: %w", &t.FatalError)
	}
	return fmt.Errorf("nvmehost: unexpected %v", h.Type)
}

// transientTransport is the status of a command whose data failed its digest.
const transientTransport = 0x022

// receive takes a C2HData.
func (q *queue) receive(f *pdu.Frame, b []byte) error {
	var d pdu.Data
	if _, err := d.Decode(b); err != nil {
		return err
	}
	c, err := q.find(d.CID)
	if err != nil {
		return err
	}
	if c.Out || int(d.Length) != f.DataLen || uint64(d.Offset)+uint64(d.Length) > uint64(c.n) {
		return pdu.Fatal(pdu.TransferRange, 0)
	}
	q.r += f.DataOff
	q.segs = slice(c.Data, int(d.Offset), f.DataLen, q.segs[:0])
	ok, err := q.body(f, q.segs)
	if err != nil {
		return err
	}
	if !ok {
		c.Status = transientTransport
	}
	if d.Success {
		q.finish(d.CID, c)
	}
	return nil
}

// body receives data into segs, which have f.DataLen bytes.
func (q *queue) body(f *pdu.Frame, segs [][]byte) (ok bool, err error) {
	var crc uint32
	for len(segs) > 0 {
		if q.r < q.w {
			n := copy(segs[0], q.in[q.r:q.w])
			if f.DDigest {
				crc = pdu.Digest(crc, segs[0][:n])
			}
			q.r += n
			segs = skip(segs, n)
			continue
		}
		n, err := q.readDirect(segs)
		if err != nil {
			return false, err
		}
		for n > 0 {
			m := min(n, len(segs[0]))
			if f.DDigest {
				crc = pdu.Digest(crc, segs[0][:m])
			}
			segs = skip(segs, m)
			n -= m
		}
	}
	if !f.DDigest {
		return true, nil
	}
	if err := q.need(pdu.DigestLen); err != nil {
		return false, err
	}
	ok = crc == pdu.DigestAt(q.in[q.r:])
	q.r += pdu.DigestLen
	return ok, nil
}

// readDirect reads into segs and, behind them, the empty input buffer; it
// returns how many bytes went to segs.
func (q *queue) readDirect(segs [][]byte) (int, error) {
	q.r, q.w = 0, 0
	k, total := 0, 0
	for k < len(q.iov)-1 && k < len(segs) {
		q.iov[k] = segs[k]
		total += len(segs[k])
		k++
	}
	if k == len(segs) {
		q.iov[k] = q.in
		k++
	}
	q.sock.Uncork()
	n, err := q.sock.Readv(q.iov[:k])
	clear(q.iov[:k])
	if err != nil {
		return 0, err
	}
	q.sock.Cork()
	if n > total {
		q.w = n - total
		n = total
	}
	return n, nil
}

// transfer answers an R2T.
func (q *queue) transfer(f *pdu.Frame, b []byte) error {
	var r pdu.R2T
	if _, err := r.Decode(b); err != nil {
		return err
	}
	q.r += f.Total
	c, err := q.find(r.CID)
	if err != nil {
		return err
	}
	end := uint64(r.Offset) + uint64(r.Length)
	if !c.Out || end > uint64(c.n) || r.Length == 0 {
		return pdu.Fatal(pdu.TransferRange, 0)
	}
	for off := int(r.Offset); off < int(end); {
		n := min(int(end)-off, q.h2cMax)
		d := pdu.Data{FromHost: true, Last: off+n == int(end), CID: r.CID, TTag: r.TTag, Offset: uint32(off), Length: uint32(n)}
		from := len(c.segs)
		c.segs = slice(c.Data, off, n, c.segs)
		c.refs.Add(1)
		q.sendData(d.Append(c.head[:0], &q.layout), c.segs[from:], c)
		off += n
	}
	return nil
}

// slice appends to dst the part [off, off+n) of the list.
func slice(list [][]byte, off, n int, dst [][]byte) [][]byte {
	for _, s := range list {
		if n <= 0 {
			break
		}
		if off >= len(s) {
			off -= len(s)
			continue
		}
		s = s[off:min(len(s), off+n)]
		off = 0
		n -= len(s)
		dst = append(dst, s)
	}
	return dst
}

// skip drops the first n bytes of the list.
func skip(segs [][]byte, n int) [][]byte {
	for len(segs) > 0 && n >= len(segs[0]) {
		n -= len(segs[0])
		segs = segs[1:]
	}
	if n > 0 {
		segs[0] = segs[0][n:]
	}
	return segs
}
