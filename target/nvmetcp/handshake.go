package nvmetcp

import (
	"encoding/binary"
	"errors"
	"time"

	"blockd.dev/target/auth"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp/pdu"
)

// handleICReq agrees on digests and alignment (§3.3.1).
func (c *conn) handleICReq(f *pdu.Frame, hdr []byte) error {
	var q pdu.IC
	if _, err := q.Decode(hdr); err != nil {
		return fatalOf(err, hdr)
	}
	c.in.Use(f.Total)
	r := pdu.IC{Resp: true, HeaderDigest: q.HeaderDigest, DataDigest: q.DataDigest, Limit: uint32(c.lim.MaxH2CData)}
	c.sock.Append(r.Append(make([]byte, 0, pdu.ICLen)), nil, nil, nil)
	c.rules.HeaderDigest, c.rules.DataDigest = q.HeaderDigest, q.DataDigest
	c.layout = pdu.Layout{HeaderDigest: q.HeaderDigest, DataDigest: q.DataDigest, Align: q.Align()}
	c.phase = phaseConnect
	rest := time.Duration(c.lim.HandshakeSeconds) * time.Second
	return c.sock.SetReadDeadline(time.Now().Add(rest))
}

// fatalOf makes a fatal of a decoder's error.
func fatalOf(err error, hdr []byte) error {
	var fe *pdu.FatalError
	if errors.As(err, &fe) {
		return fatalAt(fe, hdr)
	}
	return err
}

// isOwn reports whether the connection itself executes the command.
func (c *conn) isOwn(nv *nvme.Command) bool {
	fctype, ok := nv.Fabrics()
	if !ok {
		return false
	}
	switch fctype {
	case nvme.FabricsConnect, nvme.FabricsAuthSend, nvme.FabricsAuthReceive:
		return true
	}
	return false
}

// prepareOwn decodes Connect and the authentication commands. When it returns
// false the status is set.
func (c *conn) prepareOwn(nv *nvme.Command) bool {
	nv.Status, nv.Result = c.checkOwn(nv)
	if nv.Status != nvme.Success {
		nv.Dir, nv.Length = nvme.DirNone, 0
		return false
	}
	return true
}

func (c *conn) checkOwn(nv *nvme.Command) (nvme.Status, uint64) {
	sgl := nv.SGL()
	if nv.SQE[1]&0x03 != 0 {
		return nvme.InvalidField | nvme.DNR, 0 // never fused
	}
	if nv.SQE[4] == nvme.FabricsConnect {
		if c.queue != nil {
			return nvme.CommandSequenceError | nvme.DNR, 0
		}
		if s, result := nvme.CheckConnect(nv); s != nvme.Success {
			return s, result
		}
		nv.Dir, nv.Length = nvme.DirOut, nvme.ConnectDataBytes
	} else {
		// Dword 10: SPSP0, SPSP1 and SECP; Dword 11: the length (NVMe Base
		// 2.0 §6.1, §6.2).
		n := binary.LittleEndian.Uint32(nv.SQE[44:])
		switch {
		case c.queue == nil:
			return nvme.CommandSequenceError | nvme.DNR, 0
		case c.auth == nil:
			return nvme.InvalidOpcode | nvme.DNR, 0 // this host has nothing to prove
		case nv.SQE[43] != 0xe9 || nv.SQE[41] != 1 || nv.SQE[42] != 1 || n == 0 || n > authBytesMax:
			return nvme.InvalidField | nvme.DNR, 0
		case n != sgl.Length:
			return nvme.InvalidSGLLength | nvme.DNR, 0
		}
		nv.Dir, nv.Length = nvme.DirOut, int(n)
		if nv.SQE[4] == nvme.FabricsAuthReceive {
			nv.Dir = nvme.DirIn
		}
	}
	if sgl.Kind != nvme.SGLTransport && (sgl.Kind != nvme.SGLInCapsule || nv.Dir == nvme.DirIn) {
		return nvme.InvalidSGLType | nvme.DNR, 0
	}
	return nvme.Success, 0
}

// authBytesMax is the longest authentication message that is taken or given.
const authBytesMax = 4096

// executeOwn runs a command that prepareOwn accepted.
func (c *conn) executeOwn(cmd *command) {
	switch cmd.nv.SQE[4] {
	case nvme.FabricsConnect:
		c.connect(cmd)
	case nvme.FabricsAuthSend:
		c.authSend(cmd)
	default:
		c.authReceive(cmd)
	}
}

// connect serves a Connect command: the connection becomes a queue.
func (c *conn) connect(cmd *command) {
	nv := &cmd.nv
	data := make([]byte, nvme.ConnectDataBytes)
	cmd.sg.CopyOut(0, data)
	r, err := nvme.ParseConnect(&nv.SQE, data)
	if err != nil || c.queue != nil {
		c.refuse(cmd, nvme.CommandSequenceError|nvme.DNR) // two Connects at once
		c.complete(cmd)
		return
	}
	c.host, c.subNQN = r.HostNQN, r.SubNQN
	r.Port = c.port
	r.Closed = c.controllerEnded
	policy, status := c.policy(&r)
	r.AuthRequired = !policy.Host.IsZero()
	var q *nvme.Queue
	var result uint64
	if status == nvme.Success {
		q, status, result = c.srv.subsystem.Connect(&r)
	}
	nv.Status, nv.Result = status, result
	if q == nil {
		c.done = true
		c.closeErr = errConnect
		c.complete(cmd)
		return
	}
	c.queue = q
	c.noSQHD = r.CATTR&cattrNoFlowControl != 0
	c.sub.size = uint32(q.Size())
	c.sub.head = 1 % c.sub.size // behind this command
	c.sqhd.Store(c.sub.head)
	if q.ID() != 0 {
		c.rules.CapsuleMax = c.lim.CapsuleBytes
	}
	c.pool.SetLimit(2*q.Size() + poolSpare)
	c.register(&r, uint16(result))
	if r.AuthRequired {
		c.auth = auth.NewDHController(policy, r.HostNQN, r.SubNQN)
		c.phase = phaseAuth
	} else {
		c.live()
	}
	c.complete(cmd)
}

// cattrNoFlowControl in CATTR asks to disable SQ flow control (§6.3).
const cattrNoFlowControl = 1 << 2

// register makes the queue visible in Sessions.
func (c *conn) register(r *nvme.ConnectRequest, cntlid uint16) {
	c.mu.Lock()
	c.mu.connected = true
	c.mu.info = SessionInfo{HostNQN: r.HostNQN, SubNQN: r.SubNQN, CNTLID: cntlid, QID: r.QID, Entries: int(r.SQSize) + 1,
		Port: c.port, Discovery: r.SubNQN == nvme.DiscoveryNQN, HeaderDigest: c.layout.HeaderDigest,
		DataDigest: c.layout.DataDigest, Remote: c.sock.RemoteAddr(), Local: c.sock.LocalAddr(), Since: time.Now()}
	c.mu.Unlock()
}

// live ends the handshake.
func (c *conn) live() {
	if c.phase == phaseLive {
		return
	}
	c.phase = phaseLive
	c.in.Live()
	c.srv.live(c)
}

// authSend takes a message of the host.
func (c *conn) authSend(cmd *command) {
	msg := make([]byte, cmd.nv.Length)
	cmd.sg.CopyOut(0, msg)
	if p, err := c.srv.cfg.Load().Auth.NVMeHost(c.host); err == nil {
		c.auth.Renew(p) // the keys may have changed since the last time
	}
	if !c.pass(func() { c.auth.Send(msg) }) {
		c.refuse(cmd, nvme.AbortedSQDeletion)
		c.complete(cmd)
		return
	}
	cmd.nv.Status, cmd.nv.Result = nvme.Success, 0
	c.complete(cmd)
	c.judge()
}

// authReceive gives the host its next message.
func (c *conn) authReceive(cmd *command) {
	nv := &cmd.nv
	var msg []byte
	c.pass(func() { msg = c.auth.Receive() })
	if msg == nil || len(msg) > nv.Length {
		c.refuse(cmd, nvme.CommandSequenceError|nvme.DNR)
		c.complete(cmd)
		return
	}
	full := make([]byte, nv.Length)
	copy(full, msg)
	cmd.sg.CopyIn(0, full)
	nv.InLen = nv.Length
	nv.Status, nv.Result = nvme.Success, 0
	c.complete(cmd)
	c.judge()
}

// judge follows the state of the authentication: a success opens the queue,
// a failure that the host knows of ends it.
func (c *conn) judge() {
	switch {
	case c.auth.Authenticated():
		c.mu.Lock()
		c.mu.info.Authenticated = true
		c.mu.Unlock()
		c.queue.SetAuthenticated(true)
		c.live()
	case c.auth.Over():
		c.queue.SetAuthenticated(false)
		c.srv.authFailed(c)
		c.done = true
		c.closeErr = c.auth.Failed()
	case c.auth.Failed() != nil:
		c.queue.SetAuthenticated(false)
	}
}
