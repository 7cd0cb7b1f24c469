package group

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Requests between members, one at a time on a connection:
//
//	| 4 length | 1 method | payload |      and back      | 4 length | 1 code | payload |
//
// length counts what follows it, big-endian. The payload of an answer with a
// code other than OK is text for people.
type method uint8

const (
	methodApply    method = 1 // envelope -> outcome; only the leader
	methodVerify   method = 2 // 8 term -> nothing, if the member is still in that term
	methodIndex    method = 3 // nothing -> 8 index that a linearizable read waits for; only the leader
	methodStatus   method = 4 // nothing -> memberStatus
	methodJoin     method = 5 // Member, the caller's own -> outcome; any member
	methodTransfer method = 6 // id or nothing -> nothing; only the leader
	methodQuiet    method = 7 // 8 term, 8 index -> 8 ns: see Quiet; if the member is in that term
)

const (
	frameMax  = CommandMax + 4096
	answerMax = ResultMax + 4096
	idleMax   = 64 // connections to one member that are kept
	idleFor   = time.Minute
)

// memberStatus is how a member is doing.
type memberStatus struct {
	Term    uint64 `json:"term"`
	Applied uint64 `json:"applied"`
}

func writeFrame(w io.Writer, kind byte, payload []byte) error {
	b := make([]byte, 0, 5+len(payload))
	b = binary.BigEndian.AppendUint32(b, uint32(1+len(payload)))
	b = append(append(b, kind), payload...)
	_, err := w.Write(b)
	return err
}

func readFrame(r io.Reader, limit int) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > uint32(limit)+1 {
		return 0, nil, fmt.Errorf("%w: a frame of %d bytes", errEnvelope, n)
	}
	payload = make([]byte, n-1)
	_, err = io.ReadFull(r, payload)
	return head[4], payload, err
}

// serve answers a member's requests until it hangs up.
func (g *Group) serve(c net.Conn, from string) {
	for {
		if c.SetReadDeadline(time.Now().Add(2*idleFor)) != nil {
			return
		}
		kind, payload, err := readFrame(c, frameMax)
		if err != nil {
			return
		}
		answer, err := g.answer(from, method(kind), payload)
		if why := g.unusable(); why != nil && err != nil && !errors.Is(err, ErrOutcomeUnknown) {
			// Why this member has stopped is no error of who asks: told that
			// somebody was removed, it would take itself to be meant.
			err = fmt.Errorf("%w: %v", ErrHalted, why)
		}
		if err != nil {
			answer = []byte(err.Error())
			answer = answer[:min(len(answer), 4096)]
		}
		if c.SetWriteDeadline(time.Now().Add(handshakeTimeout)) != nil || writeFrame(c, byte(codeOf(err)), answer) != nil {
			return
		}
	}
}

func (g *Group) answer(from string, m method, payload []byte) ([]byte, error) {
	if err := g.unusable(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(g.ctx, g.patience())
	defer cancel()
	switch m {
	case methodApply:
		e, err := decodeEnvelope(payload)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		o, err := g.leaderApply(ctx, &e, from)
		if err != nil {
			return nil, err
		}
		return o.encode(), nil
	case methodVerify:
		if len(payload) == 8 {
			g.confirmed.asked(binary.BigEndian.Uint64(payload)) // before it looks at its own term
		}
		if len(payload) != 8 || binary.BigEndian.Uint64(payload) != g.raft.CurrentTerm() {
			return nil, ErrNotLeader
		}
		return nil, nil
	case methodIndex:
		index, err := g.leaderIndex(ctx)
		if err != nil {
			return nil, err
		}
		return binary.BigEndian.AppendUint64(nil, index), nil
	case methodStatus:
		index, _ := g.machine.position()
		return json.Marshal(memberStatus{Term: g.raft.CurrentTerm(), Applied: index})
	case methodJoin:
		var n Member
		if err := json.Unmarshal(payload, &n); err != nil || n.ID != from {
			return nil, fmt.Errorf("%w: a node joins for itself", ErrRefused)
		}
		o, err := g.order(ctx, order{Admit: &n})
		if err != nil {
			return nil, err
		}
		return o.encode(), nil
	case methodTransfer:
		return nil, g.leaderTransfer(ctx, string(payload))
	case methodQuiet:
		return g.answerQuiet(ctx, payload)
	}
	return nil, fmt.Errorf("%w: method %d is not known here; upgrade this node", ErrRefused, m)
}

// pool keeps connections to members.
type pool struct {
	mu     sync.Mutex
	idle   map[string][]idleConn // by address, the last used at the end
	closed bool
}

type idleConn struct {
	net.Conn
	since time.Time
}

func (p *pool) take(address string) net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.idle[address]
	for len(list) > 0 && time.Since(list[0].since) > idleFor {
		list[0].Close()
		list = list[1:]
	}
	if len(list) == 0 {
		delete(p.idle, address)
		return nil
	}
	c := list[len(list)-1].Conn
	p.idle[address] = list[:len(list)-1]
	return c
}

func (p *pool) put(address string, c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle[address]) >= idleMax {
		c.Close()
		return
	}
	if p.idle == nil {
		p.idle = make(map[string][]idleConn)
	}
	p.idle[address] = append(p.idle[address], idleConn{c, time.Now()})
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, list := range p.idle {
		for _, c := range list {
			c.Close()
		}
	}
	p.idle = nil
}

// call asks a member. sent tells whether it may have received the request:
// when it is false and err isn't nil, the request had no effect.
func (g *Group) call(ctx context.Context, id, address string, m method, payload []byte) (answer []byte, sent bool, err error) {
	c := g.pool.take(address)
	if c == nil {
		if c, err = g.dial(ctx, protoMember, id, address); err != nil {
			return nil, false, err
		}
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	err = writeFrame(c, byte(m), payload)
	var kind byte
	if err == nil {
		kind, answer, err = readFrame(c, answerMax)
	}
	if !stop() || err != nil {
		c.Close()
		if err == nil {
			err = ctx.Err()
		}
		return nil, true, fmt.Errorf("node %s at %s: %w", id, address, err)
	}
	g.pool.put(address, c)
	if err := code(kind).err(id, string(answer)); err != nil {
		return nil, true, err
	}
	return answer, true, nil
}
