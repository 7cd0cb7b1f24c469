package nvme

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// ConnectDataBytes is the size of the data of a Connect command.
const ConnectDataBytes = 1024

// ConnectRequest is what a Connect command asks for (NVMe Base 2.0 §6.3), and
// what the transport adds to it.
type ConnectRequest struct {
	HostID  [16]byte
	HostNQN string
	SubNQN  string
	CNTLID  uint16 // FFFFh for an admin queue: any
	QID     uint16
	SQSize  uint16 // entries, 0's based
	CATTR   uint8
	KATO    uint32 // milliseconds; 0 means no keep-alive

	// Port is the Port.ID that the connection came in on; it decides the ANA
	// states that the controller sees.
	Port uint16
	// AuthRequired makes the queue refuse every command but authentication
	// until SetAuthenticated.
	AuthRequired bool
	// Closed is called once, from any goroutine and with no lock held, when
	// the controller ends the queue's connection: keep-alive expired, reset,
	// the host was removed. It is not called after Queue.Disconnect. It must
	// not block.
	Closed func(reason error)
}

// ErrConnectData is what ParseConnect gives for data that is too short.
var ErrConnectData = errors.New("nvme: Connect data is shorter than 1024 bytes")

// ParseConnect decodes a Connect command and its data. It checks lengths
// only; Subsystem.Connect judges the content.
func ParseConnect(sqe *[64]byte, data []byte) (ConnectRequest, error) {
	if len(data) < ConnectDataBytes {
		return ConnectRequest{}, ErrConnectData
	}
	r := ConnectRequest{
		CNTLID:  binary.LittleEndian.Uint16(data[16:]),
		SubNQN:  nqnField(data[256:512]),
		HostNQN: nqnField(data[512:768]),
		QID:     binary.LittleEndian.Uint16(sqe[42:]),
		SQSize:  binary.LittleEndian.Uint16(sqe[44:]),
		CATTR:   sqe[46],
		KATO:    binary.LittleEndian.Uint32(sqe[48:]),
	}
	copy(r.HostID[:], data)
	return r, nil
}

// nqnField is the text before the first NUL; all of it where there is none.
func nqnField(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// The places in the command and its data that Connect Invalid Parameters
// names: IPO in bits 15:0, IATTR in bit 16 (set: in the data).
const (
	badQID     uint64 = 42
	badSQSize  uint64 = 44
	badRecFmt  uint64 = 40
	badHostID  uint64 = 1 << 16
	badCNTLID  uint64 = 1<<16 | 16
	badSubNQN  uint64 = 1<<16 | 256
	badHostNQN uint64 = 1<<16 | 512
)

// authRequired are the AUTHREQ bits of a Connect response that ask for
// in-band authentication (ATR, bit 17 of Dword 0).
const authRequired uint64 = 1 << 17

// CheckConnect refuses what no Connect may have: a record format other than
// 0, and data of another size than 1024 bytes.
func CheckConnect(c *Command) (Status, uint64) {
	if rec := binary.LittleEndian.Uint16(c.SQE[40:]); rec != 0 {
		return ConnectIncompatible | DNR, badRecFmt
	}
	if c.SGL().Length != ConnectDataBytes {
		return InvalidSGLLength | DNR, 0
	}
	return Success, 0
}

// Connect serves a Connect command for the NVM subsystem or the discovery
// subsystem. On Success the queue is the connection's, and result is Dword 0
// and 1 of the response: the controller id, and whether to authenticate. Else
// q is nil and status and result are the response; the transport answers and
// then drops the connection.
func (s *Subsystem) Connect(r *ConnectRequest) (q *Queue, status Status, result uint64) {
	if err := validNQN(r.HostNQN); err != nil {
		return nil, ConnectInvalidParameters | DNR, badHostNQN
	}
	if r.SQSize == 0 || int(r.SQSize) >= s.conf.Load().MaxQueueEntries {
		return nil, ConnectInvalidParameters | DNR, badSQSize
	}
	conf := s.conf.Load()
	discovery := r.SubNQN == DiscoveryNQN
	if !discovery && r.SubNQN != conf.NQN {
		// It may be on its way: no DNR.
		return nil, ConnectInvalidParameters, badSubNQN
	}
	if !discovery && !conf.allowed(r.HostNQN) {
		return nil, ConnectInvalidHost, badHostNQN
	}
	if r.QID == 0 {
		return s.connectAdmin(r, discovery)
	}
	return s.connectIO(r, discovery)
}

func (s *Subsystem) connectAdmin(r *ConnectRequest, discovery bool) (*Queue, Status, uint64) {
	// The dynamic controller model: the subsystem chooses the id.
	if r.CNTLID != 0xffff {
		return nil, ConnectInvalidParameters | DNR, badCNTLID
	}
	q, status := s.newAssociation(r, discovery)
	if status != Success {
		return nil, status, 0
	}
	kind := "NVM"
	if discovery {
		kind = "discovery"
	}
	s.event(Event{Kind: EventConnected, HostNQN: r.HostNQN, CNTLID: q.ctrl.id, Text: kind + " controller created"})
	return q, Success, q.ctrl.connectResult(r)
}

// newAssociation makes a controller with its admin queue.
func (s *Subsystem) newAssociation(r *ConnectRequest, discovery bool) (*Queue, Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed || s.leaving.Load() {
		return nil, ConnectControllerBusy
	}
	id, ok := s.freeIDLocked(r.HostNQN)
	if !ok {
		return nil, ConnectControllerBusy
	}
	c := s.newControllerLocked(r, id, discovery)
	c.mu.admin = newQueue(c, r)
	s.mu.controllers[id] = c
	return c.mu.admin, Success
}

func (c *Controller) connectResult(r *ConnectRequest) uint64 {
	res := uint64(c.id)
	if r.AuthRequired {
		res |= authRequired
	}
	return res
}

// freeIDLocked finds a controller id; false when there are too many.
func (s *Subsystem) freeIDLocked(hostNQN string) (uint16, bool) {
	conf := s.conf.Load()
	if len(s.mu.controllers) >= conf.MaxControllers {
		return 0, false
	}
	own := 0
	for _, c := range s.mu.controllers {
		if c.hostNQN == hostNQN {
			own++
		}
	}
	if own >= max(conf.MaxControllers/4, 1) {
		return 0, false
	}
	lo, hi := conf.ControllerIDMin, conf.ControllerIDMax
	for range int(hi) - int(lo) + 1 {
		// An id is used again as late as possible, so that a host's late
		// commands can't meet another controller.
		if s.mu.nextID < lo || s.mu.nextID > hi {
			s.mu.nextID = lo
		}
		id := s.mu.nextID
		s.mu.nextID++
		if s.mu.controllers[id] == nil {
			return id, true
		}
	}
	return 0, false
}

func (s *Subsystem) connectIO(r *ConnectRequest, discovery bool) (*Queue, Status, uint64) {
	if discovery {
		return nil, ConnectInvalidParameters | DNR, badQID // it has no I/O queues
	}
	s.mu.Lock()
	c := s.mu.controllers[r.CNTLID]
	s.mu.Unlock()
	if c == nil || c.discovery {
		return nil, ConnectInvalidParameters, badCNTLID
	}
	if c.hostNQN != r.HostNQN {
		return nil, ConnectInvalidParameters | DNR, badHostNQN
	}
	if c.hostID != r.HostID {
		return nil, ConnectInvalidParameters | DNR, badHostID
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.mu.ended:
		return nil, ConnectInvalidParameters, badCNTLID
	case s.leaving.Load(): // with c.mu, so that Leave finds the queues of before
		return nil, ConnectControllerBusy, 0
	case !c.mu.ready:
		return nil, CommandSequenceError, 0
	case int(r.QID) > c.mu.queuesGranted:
		return nil, ConnectInvalidParameters | DNR, badQID
	case c.mu.queues[r.QID] != nil:
		return nil, CommandSequenceError, 0
	}
	q := newQueue(c, r)
	c.mu.queues[r.QID] = q
	return q, Success, c.connectResult(r)
}

// keepAlive turns a KATO in milliseconds into a time, rounded up to the
// granularity that KAS says; 0 means none.
func keepAlive(ms uint32) time.Duration {
	units := (uint64(ms) + kasMillis - 1) / kasMillis
	return time.Duration(units) * kasMillis * time.Millisecond
}

// kasMillis is the keep-alive granularity: KAS counts units of 100 ms.
const kasMillis = 1000

// errKeepAlive ends the connections of a controller whose host fell silent.
type keepAliveError struct{ kato time.Duration }

func (e keepAliveError) Error() string {
	return fmt.Sprintf("nvme: no command for the keep-alive timeout of %v", e.kato)
}
