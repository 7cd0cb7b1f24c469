package iscsi

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/internal/turn"
	"blockd.dev/target/iscsi/pdu"
	"blockd.dev/target/pool"
	"blockd.dev/target/scsi"
	"blockd.dev/target/sockio"
)

const (
	// streamMin is from where on the rest of a data segment that has not
	// arrived with its header is read directly into the command's buffer.
	streamMin = 4 << 10
	loginData = 8192    // longest data segment in the login phase (§6.3)
	heldMax   = 1 << 20 // bytes of PDUs that came before their turn
	// tmfMax is how many task management functions of a connection may run.
	tmfMax = 16
	// immediateMax is how many commands may exist beyond the window.
	immediateMax = 16
)

// conn is one connection: in the login phase first, then that of a session.
// The fields without a guard belong to the reader goroutine.
type conn struct {
	srv   *Server
	sock  *sockio.Conn
	soon  turn.Soon // sock's
	tpgt  uint16
	lim   *Limits
	pool  pool.Pool[command, *command]
	cid   uint16
	login *login // nil in the full-feature phase
	sess  *session
	nexus *scsi.Nexus // nil in discovery sessions
	par   Params      // a copy for the reader; output uses mu.par

	in       sockio.Input
	segs     [][]byte         // scratch of readInto
	saved    [pdu.BHSLen]byte // header of the PDU whose data is being read
	text     textState
	last     bool  // nothing has arrived behind the PDU that is being handled
	done     bool  // nothing more is read: logged out
	closeErr error // why the connection ends, nil after logout

	mu struct {
		sync.Mutex
		par    Params // of the session; MaxSendData may change
		win    window
		statSN uint32
		tasks  taskTable
		dead   bool          // nothing is sent any more
		leave  bool          // logout is requested of the initiator
		halted bool          // no command is handed to the device server any more
		idle   chan struct{} // who waits for the end of those that it has; nil for nobody
		pingAt int64
		tmfs   int
		stats  Stats
	}
	held      []heldPDU // in the order of CmdSN
	heldTotal int
	replaying bool

	heldBytes atomic.Int64 // buffer of commands
	gone      atomic.Bool  // blockdev.Request.Gone of all commands; set before the initiator is told
	closing   atomic.Pointer[error]
}

// heldPDU is a PDU that came before its turn, with its data.
type heldPDU struct {
	cmdSN uint32
	itt   uint32
	hdr   []byte
	data  []byte
}

func newConn(srv *Server, tcp *net.TCPConn, tpgt uint16) (*conn, error) {
	sock, err := sockio.New(tcp, sockio.Config{Soon: srv.cfg.Load().Soon})
	if err != nil {
		return nil, err
	}
	c := &conn{srv: srv, sock: sock, soon: sock.Soon, tpgt: tpgt, lim: &srv.limits}
	c.in.Init(sock)
	c.pool.SetLimit(4*c.lim.QueueDepth + immediateMax)
	c.par = defaultParams()
	c.par.MaxRecvData = c.lim.MaxRecvData
	return c, nil
}

// drop ends the connection from any goroutine, for the reason given.
func (c *conn) drop(why error) {
	c.closing.CompareAndSwap(nil, &why)
	c.gone.Store(true)
	_ = c.sock.Close()
}

// run serves the connection until it ends.
func (c *conn) run() {
	err := c.loop()
	if p := c.closing.Load(); p != nil {
		err = *p
	}
	c.closeErr = err
	c.end()
}

// loop reads, serves what has arrived, and sends the answers in one go.
func (c *conn) loop() error {
	for {
		if err := c.serve(); err != nil {
			_ = c.lastWords(err) // a Reject or a login status should arrive
			return err
		}
		if c.done {
			return c.lastWords(nil)
		}
		if err := c.in.Fill(); err != nil {
			return err
		}
	}
}

// lastWords sends what is queued before the connection is closed. A peer that
// does not take it has a second.
func (c *conn) lastWords(why error) error {
	c.gone.Store(true)
	limit := time.AfterFunc(time.Second, func() { c.drop(why) })
	defer limit.Stop()
	c.sock.Uncork()
	return c.sock.Drain()
}

// serve handles every PDU in the input buffer. A PDU that is not whole stays
// for the next call, unless it is one whose data is better read into place.
func (c *conn) serve() error {
	for !c.done {
		if more, err := c.serveOne(); err != nil || !more {
			return err
		}
	}
	return nil
}

// serveOne handles the PDU at the front of the input buffer. It reports
// whether to look for another.
func (c *conn) serveOne() (more bool, err error) {
	b := c.in.Bytes()
	if len(b) < pdu.BHSLen {
		return false, nil
	}
	var h pdu.Header
	if _, err := h.Decode(b); err != nil {
		return false, err
	}
	hdrLen := pdu.BHSLen + h.AHSLen
	hdrAll := hdrLen
	if c.par.HeaderDigest && c.login == nil {
		hdrAll += pdu.DigestLen
	}
	if len(b) < hdrAll {
		return true, c.in.Need(hdrAll)
	}
	if hdrAll > hdrLen && pdu.Digest(0, b[:hdrLen]) != pdu.DigestAt(b[hdrLen:]) {
		// §7.7: at error recovery level 0 the connection is of no use.
		return false, &ProtocolError{h.Opcode, "header digest error"}
	}
	limit := c.par.MaxRecvData
	if c.login != nil {
		limit = loginData
	}
	if h.DataLen > limit {
		return false, &ProtocolError{h.Opcode, "data segment longer than MaxRecvDataSegmentLength"}
	}
	segLen := h.DataLen + pdu.Pad(h.DataLen)
	if segLen > 0 && c.par.DataDigest && c.login == nil {
		segLen += pdu.DigestLen
	}
	total := hdrAll + segLen
	c.last = total == len(b)
	if total > len(b) {
		return true, c.partial(&h, hdrLen, hdrAll, segLen)
	}
	if err := c.whole(&h, b[:hdrLen], b[hdrAll:total]); err != nil {
		return false, err
	}
	c.in.Use(total)
	return true, nil
}

// partial deals with a PDU whose data has not arrived: it reads more, or
// reads the data into place and handles the PDU.
func (c *conn) partial(h *pdu.Header, hdrLen, hdrAll, segLen int) error {
	direct := h.DataLen >= streamMin && c.login == nil && c.nexus != nil
	switch {
	case direct && h.Opcode == pdu.OpDataOut:
		return c.streamDataOut(c.takeHeader(hdrLen, hdrAll), h.DataLen, segLen)
	case direct && h.Opcode == pdu.OpSCSICommand && c.hasTurn(h, c.in.Bytes()):
		return c.streamCommand(c.takeHeader(hdrLen, hdrAll), h.DataLen, segLen)
	case hdrAll+segLen <= sockio.InputMax:
		return c.in.Need(hdrAll + segLen)
	}
	// Larger than the input buffer and of no use in pieces; rare.
	big := make([]byte, hdrAll+segLen)
	if err := c.in.Into([][]byte{big}, len(big), nil); err != nil {
		return err
	}
	return c.whole(h, big[:hdrLen], big[hdrAll:])
}

// takeHeader takes the header off the input buffer. It is valid until the next
// fill.
func (c *conn) takeHeader(hdrLen, hdrAll int) []byte {
	b := c.in.Bytes()[:hdrLen]
	c.in.Use(hdrAll)
	return b
}

// whole handles one PDU that is all there. seg is its data with padding and
// digest.
func (c *conn) whole(h *pdu.Header, hdr, seg []byte) error {
	data := seg[:h.DataLen]
	if c.login != nil {
		return c.handleLogin(h, hdr, data)
	}
	if h.DataLen > 0 && c.par.DataDigest {
		n := len(seg) - pdu.DigestLen
		if pdu.Digest(0, seg[:n]) != pdu.DigestAt(seg[n:]) {
			return c.badDigest(h, hdr)
		}
	}
	return c.dispatch(h, hdr, data)
}

// badDigest handles a data digest error (§7.7): the PDU is rejected and
// forgotten. A command's number stays open for the retry; a Data-Out ends its
// command with an error.
func (c *conn) badDigest(h *pdu.Header, hdr []byte) error {
	c.reject(pdu.RejectDataDigest, hdr)
	if h.Opcode == pdu.OpDataOut {
		return c.lostDataOut(hdr)
	}
	return nil
}

// dispatch handles one PDU of the full-feature phase. data aliases the input
// buffer.
func (c *conn) dispatch(h *pdu.Header, hdr, data []byte) error {
	switch h.Opcode {
	case pdu.OpDataOut:
		return c.handleDataOut(hdr, data)
	case pdu.OpSNACK:
		c.reject(pdu.RejectSNACK, hdr)
		return nil
	case pdu.OpSCSICommand, pdu.OpNOPOut, pdu.OpTMFRequest, pdu.OpText, pdu.OpLogout:
		return c.inTurn(h, hdr, data)
	case pdu.OpLogin:
		return &ProtocolError{h.Opcode, "in the full-feature phase"}
	}
	c.reject(pdu.RejectNotSupported, hdr)
	return nil
}

// cmdSNOf is where all requests have their CmdSN.
func cmdSNOf(hdr []byte) uint32 {
	return uint32(hdr[24])<<24 | uint32(hdr[25])<<16 | uint32(hdr[26])<<8 | uint32(hdr[27])
}

// hasTurn reports whether a request can be handled now.
func (c *conn) hasTurn(h *pdu.Header, hdr []byte) bool {
	if h.Immediate {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.win.where(cmdSNOf(hdr)) == placeNext
}

// inTurn handles a request if it is its turn, keeps it if others are missing
// before it, and ignores it outside of the window (§4.2.2.1).
func (c *conn) inTurn(h *pdu.Header, hdr, data []byte) error {
	if h.Immediate {
		return c.request(h, hdr, data)
	}
	sn := cmdSNOf(hdr)
	c.mu.Lock()
	place := c.mu.win.where(sn)
	c.mu.Unlock()
	switch place {
	case placeNext:
		if err := c.request(h, hdr, data); err != nil {
			return err
		}
		return c.replay()
	case placeAhead:
		return c.hold(sn, h.ITT, hdr, data)
	}
	return nil
}

// hold keeps a PDU for later, unless it is kept already: an initiator may send again what
// has no answer (§7.2.1).
func (c *conn) hold(sn, itt uint32, hdr, data []byte) error {
	i := len(c.held)
	for i > 0 && int32(c.held[i-1].cmdSN-sn) > 0 {
		i--
	}
	if c.holds(sn, i, hdr) {
		return nil
	}
	if c.heldTotal += len(hdr) + len(data); c.heldTotal > heldMax {
		return &ProtocolError{Reason: "too much data behind a missing command"}
	}
	c.held = append(c.held, heldPDU{})
	copy(c.held[i+1:], c.held[i:])
	c.held[i] = heldPDU{cmdSN: sn, itt: itt, hdr: append([]byte(nil), hdr...), data: append([]byte(nil), data...)}
	return nil
}

// holds reports whether a PDU is among the held ones, of which those up to sn end at index end. The
// first of a number is its command, and its data follows in the order of DataSN; what is
// in another order is an error for the transfer to find.
func (c *conn) holds(sn uint32, end int, hdr []byte) bool {
	if end == 0 || c.held[end-1].cmdSN != sn {
		return false
	}
	if hdr[0]&0x3f != byte(pdu.OpDataOut) {
		return true
	}
	var d, same pdu.DataOut
	if _, err := d.Decode(hdr); err != nil {
		return false
	}
	first, _ := slices.BinarySearchFunc(c.held, sn, func(p heldPDU, sn uint32) int { return int(int32(p.cmdSN - sn)) })
	at := uint64(first) + 1 + uint64(d.DataSN)
	if at >= uint64(end) {
		return false
	}
	if _, err := same.Decode(c.held[at].hdr); err != nil {
		return false
	}
	same.ExpStatSN = d.ExpStatSN // what had been received when it was sent
	return same == d
}

// replay handles the held PDUs whose turn has come. One whose number counts as
// received already was aborted: it is dropped, with the data behind it.
func (c *conn) replay() error {
	if len(c.held) == 0 || c.replaying {
		return nil
	}
	c.replaying = true
	defer func() { c.replaying = false }()
	for len(c.held) > 0 && !c.done {
		p := c.held[0]
		var h pdu.Header
		if _, err := h.Decode(p.hdr); err != nil {
			return err
		}
		if h.Opcode != pdu.OpDataOut {
			c.mu.Lock()
			place := c.mu.win.where(p.cmdSN)
			c.mu.Unlock()
			switch place {
			case placeAhead:
				return nil
			case placeOutside:
				for len(c.held) > 0 && c.held[0].cmdSN == p.cmdSN {
					c.unhold()
				}
				continue
			}
		}
		c.unhold()
		if err := c.dispatch(&h, p.hdr, p.data); err != nil {
			return err
		}
	}
	if len(c.held) == 0 {
		c.held = nil
	}
	return nil
}

// unhold takes the first of the held PDUs.
func (c *conn) unhold() {
	p := c.held[0]
	c.held = c.held[1:]
	c.heldTotal -= len(p.hdr) + len(p.data)
}

// tookLocked counts a non-immediate request as received.
func (c *conn) tookLocked(isImmediate bool) {
	if !isImmediate {
		c.mu.win.advance()
	}
}

// request handles a request whose turn it is.
func (c *conn) request(h *pdu.Header, hdr, data []byte) error {
	if h.Opcode == pdu.OpSCSICommand {
		return c.handleCommand(hdr, data)
	}
	c.mu.Lock()
	c.tookLocked(h.Immediate)
	if !h.Immediate {
		c.mu.win.open() // it does not outlive this call as a task
	}
	c.mu.Unlock()
	switch h.Opcode {
	case pdu.OpNOPOut:
		return c.handleNOP(hdr, data)
	case pdu.OpTMFRequest:
		return c.handleTMF(hdr)
	case pdu.OpText:
		return c.handleText(hdr, data)
	default:
		return c.handleLogout(hdr)
	}
}

// snLocked fills in the numbers that every response has. StatSN is used up
// when use is set.
func (c *conn) snLocked(use bool) (statSN, expCmdSN, maxCmdSN uint32) {
	statSN = c.mu.statSN
	if use {
		c.mu.statSN++
	}
	return statSN, c.mu.win.exp, c.mu.win.max
}

// sendLocked queues a response with data that may be reused at once. hdr has
// room for a digest.
func (c *conn) sendLocked(hdr, data []byte) {
	if c.mu.dead {
		return
	}
	if c.mu.par.HeaderDigest && c.login == nil {
		hdr = pdu.AppendDigest(hdr, pdu.Digest(0, hdr))
	}
	if len(data) == 0 {
		c.sock.Append(hdr, nil, nil, nil)
		return
	}
	crc := pdu.Digest(0, data)
	n := len(data)
	tail := make([]byte, 0, n+3+pdu.DigestLen)
	tail = append(tail, data...)
	tail = append(tail, zeros[:pdu.Pad(n)]...)
	if c.mu.par.DataDigest && c.login == nil {
		tail = pdu.AppendDigest(tail, pdu.Digest(crc, zeros[:pdu.Pad(n)]))
	}
	c.sock.Append(hdr, nil, tail, nil)
}

var zeros [4]byte

// reject refuses a PDU (§11.17).
func (c *conn) reject(reason pdu.RejectReason, hdr []byte) {
	c.mu.Lock()
	c.mu.stats.Rejects++
	stat, exp, maxSN := c.snLocked(true)
	r := pdu.Reject{Reason: reason, StatSN: stat, ExpCmdSN: exp, MaxCmdSN: maxSN, DataLen: pdu.BHSLen}
	c.sendLocked(r.Append(make([]byte, 0, pdu.BHSLen+pdu.DigestLen)), hdr[:pdu.BHSLen])
	c.mu.Unlock()
	c.sock.Flush()
}
