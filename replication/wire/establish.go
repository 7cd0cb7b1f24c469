package wire

import (
	"fmt"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire/packet"
)

// The handshake has no acknowledgements: each side repeats what it has to say
// until the other's next words show that it was heard. A client is done when
// the server seals a packet with the traffic keys, since until then the server
// may still refuse it.

// Figures of the handshake.
const (
	shakeRepeatMin = 20 * time.Millisecond
	shakeRepeatMax = 320 * time.Millisecond
	// cryptoMax is how many handshake bytes a peer may send per level: a chain
	// of certificates takes 2 to 4 KiB.
	cryptoMax = 32 << 10
	// amplifyMax is how often more bytes a server sends than it received from an
	// address that may be forged.
	amplifyMax = 3
)

// handshaking is what is needed until the connection is up.
type handshaking struct {
	sealer, opener [LevelData]keyed // of LevelHandshake; LevelInitial has none
	out            [LevelData]cryptoOut
	in             [LevelData]cryptoIn
	tokenUsed      bool
	token          []byte // client: from a Retry
	params         []byte // the peer's, until it is known who it is
	done           bool   // the Handshake says that the peer is proven
	proven         bool   // server: the client receives at its address
	rx, tx         int    // bytes, for amplifyMax
	number         uint64 // of the next Initial or Handshake packet
	repeat         time.Duration
	said           clock.Mono // when it was all said last
	next           clock.Mono // when to say it all again; Never for nothing to say
	until          clock.Mono // when to give up
	answered       bool       // anything came from the peer
}

// keyed is a key of the handshake level.
type keyed struct {
	sealer Sealer
	opener Opener
}

// cryptoOut is what a Handshake has to say at one level.
type cryptoOut struct {
	data  []byte
	next  int  // first byte to put into a packet
	heard bool // the peer has all of it
}

// cryptoIn puts what the peer says at one level into order.
type cryptoIn struct {
	data  []byte
	have  spans
	taken int
}

// step does what the Handshake asks for.
func (c *Conn) step() {
	h := &c.shake
	for {
		s, ok := c.cfg.Handshake.Next()
		if !ok {
			break
		}
		switch s.Kind {
		case StepSend:
			if s.Level < LevelData {
				h.out[s.Level].data = append(h.out[s.Level].data, s.Data...)
			}
		case StepSealer:
			if s.Level == LevelData {
				c.sealing = sealing{Sealer: s.Sealer}
			} else {
				h.sealer[s.Level].sealer = s.Sealer
			}
		case StepOpener:
			if s.Level == LevelData {
				c.opening = newOpening(s.Opener)
			} else {
				h.opener[s.Level].opener = s.Opener
			}
		case StepParams:
			h.params = s.Data
		case StepDone:
			h.done = true
			c.peer = s.Peer
			c.onProven()
		}
	}
}

// onProven takes the peer's parameters, now that they are known to be its own.
// A server is up with that.
func (c *Conn) onProven() {
	p, err := packet.DecodeParams(c.shake.params)
	if err != nil || p.Source != c.remote {
		c.refuse(fmt.Errorf("%w: connection parameters are broken", ErrProtocol), "connection parameters are broken")
		return
	}
	c.params = p
	c.out.credit, c.out.reserve = p.Credit, reserved(p.Credit)
	if !c.client {
		c.goUp()
		c.paths[c.active].ping = true // so that the client knows
	}
}

func (c *Conn) goUp() {
	c.state = up
	c.wasUp = true
	c.shake = handshaking{}
	c.closeHandshake()
	c.heard, c.owedSince, c.lastSent = c.now, c.now, c.now
	for i := range c.paths {
		if p := &c.paths[i]; p.known {
			p.limit = min(p.limit, int(c.params.DatagramMax))
			p.valid = p.valid || PathID(i) == c.active
			if PathID(i) != c.active {
				p.startChallenge(c.now)
			}
		}
	}
	c.events.push(Event{Kind: EventUp, Path: c.active})
}

// refuse ends a handshake that failed here, and tells the peer why.
func (c *Conn) refuse(err error, why string) { c.end(packet.CloseRefused, why, err) }

func (c *Conn) tickHandshake() {
	h := &c.shake
	if h.until <= c.now {
		err := fmt.Errorf("%w: no answer to the handshake in %v", ErrPeerSilent, c.cfg.HandshakeTimeout)
		if h.answered {
			err = fmt.Errorf("%w: the handshake was not finished in %v", ErrPeerSilent, c.cfg.HandshakeTimeout)
		}
		c.die(err)
		return
	}
	if h.next <= c.now {
		c.sayAgain()
	}
}

// sayAgain sends everything again that the peer is not known to have. A
// client that has nothing to say yet repeats its hello: the server may have
// used up what it dares to send to an address that is not proven.
func (c *Conn) sayAgain() {
	h := &c.shake
	for i := range h.out {
		if !h.out[i].heard {
			h.out[i].next = 0
		}
	}
	if c.client && len(h.out[LevelHandshake].data) == 0 {
		h.out[LevelInitial].next = 0
	}
	h.repeat = min(max(2*h.repeat, shakeRepeatMin), shakeRepeatMax)
	h.said, h.next = c.now, c.now.Add(h.repeat)
}

// receiveHandshake takes a packet of one of the first two levels.
func (c *Conn) receiveHandshake(path PathID, hd *packet.Header, b []byte) {
	h := &c.shake
	var level Level
	var frames []byte
	if hd.Type == packet.TypeInitial {
		in, rest, err := packet.DecodeInitial(b)
		if err != nil || in.Version != packet.Version || in.Source == 0 || c.remote != 0 && in.Source != c.remote ||
			c.client && hd.Dest != c.cfg.LocalID || !c.client && hd.Dest != 0 && hd.Dest != c.cfg.LocalID {
			c.stats.RxInvalid++
			return
		}
		c.remote = in.Source
		frames = rest
	} else {
		level = LevelHandshake
		opener := h.opener[level].opener
		if opener == nil || hd.Dest != c.cfg.LocalID {
			c.stats.RxInvalid++
			return
		}
		payload, ok := opener.Open(b, packet.HeaderLen, hd.Number)
		if !ok {
			c.stats.RxInvalid++
			return
		}
		frames = payload
		h.proven = true // who has the handshake's keys has received what we sent
	}
	h.answered = true
	h.rx += len(b)
	if c.handshakeFrames(level, frames) && c.state == connecting {
		c.progress(level)
	}
}

// progress notes that the peer spoke at level: it has heard what came before,
// or, if it repeats itself, it has not heard us.
func (c *Conn) progress(level Level) {
	h := &c.shake
	switch {
	case c.client || level == LevelHandshake:
		h.out[LevelInitial].heard = true
	case c.now.Sub(h.said) >= shakeRepeatMin/2:
		c.sayAgain()
	}
}

// handshakeFrames takes the frames of a packet; false if it ended the
// connection, or was not to be understood.
func (c *Conn) handshakeFrames(level Level, b []byte) bool {
	for len(b) > 0 && c.state == connecting {
		rest, err := packet.DecodeFrame(b, &c.frame)
		if err != nil {
			c.stats.RxInvalid++
			return false
		}
		b = rest
		switch c.frame.Type {
		case packet.FrameCrypto:
			if !c.onCrypto(level, &c.frame.Crypto) {
				return false
			}
		case packet.FrameClose:
			c.onRefused(&c.frame.Close)
			return false
		default: // padding
		}
	}
	return true
}

func (c *Conn) onRefused(f *packet.Close) {
	if f.Code == packet.CloseDone {
		c.die(fmt.Errorf("%w by the peer during the handshake: %s", ErrClosed, f.Reason))
		return
	}
	c.die(fmt.Errorf("%w by the peer: %s", ErrRefused, f.Reason))
}

func (c *Conn) onCrypto(level Level, f *packet.Crypto) bool {
	in := &c.shake.in[level]
	from, to := int(f.Offset), int(f.Offset)+len(f.Data)
	if to > cryptoMax {
		c.stats.RxInvalid++
		return false
	}
	if _, ok := in.have.add(from, to, spansMax); !ok {
		return false
	}
	if to > len(in.data) {
		in.data = append(in.data, make([]byte, to-len(in.data))...)
	}
	copy(in.data[from:], f.Data)
	lead := in.have.lead()
	if lead == in.taken {
		return true
	}
	fresh := in.data[in.taken:lead]
	in.taken = lead
	if err := c.cfg.Handshake.Receive(level, fresh); err != nil {
		c.step() // it may have an alert to send
		c.refuse(fmt.Errorf("%w: %w", ErrRefused, err), err.Error())
		return false
	}
	c.step()
	c.shake.repeat = 0
	return c.state == connecting
}

// produceHandshake writes the next packet that has something of the handshake.
func (c *Conn) produceHandshake(buf []byte) int {
	h := &c.shake
	for level := range h.out {
		o := &h.out[level]
		if o.next >= len(o.data) || level > 0 && h.sealer[level].sealer == nil {
			continue
		}
		b := c.handshakeHead(Level(level), buf[:0])
		room := packet.DatagramMin - len(b) - packet.CryptoHeadMax - tagMax
		n := min(room, len(o.data)-o.next)
		if !c.client && !h.proven && h.tx+packet.DatagramMin-room+n > amplifyMax*h.rx {
			return 0
		}
		b = packet.AppendCrypto(b, packet.Crypto{Offset: uint64(o.next), Data: o.data[o.next : o.next+n]})
		o.next += n
		return c.handshakeTail(Level(level), b)
	}
	return 0
}

// tagMax is more than a Sealer or a checksum adds.
const tagMax = 32

func (c *Conn) handshakeHead(level Level, b []byte) []byte {
	hd := packet.Header{Type: packet.TypeInitial, Number: c.shake.number, Dest: c.remote}
	if level == LevelHandshake {
		hd.Type = packet.TypeHandshake
		return hd.Append(b)
	}
	if c.client && !c.shake.answered {
		hd.Dest = 0
	}
	in := packet.InitialHead{Version: packet.Version, Source: c.cfg.LocalID, Token: c.shake.token}
	return in.Append(hd.Append(b))
}

func (c *Conn) handshakeTail(level Level, b []byte) int {
	h := &c.shake
	if level == LevelHandshake {
		b = h.sealer[level].sealer.Seal(b, packet.HeaderLen, h.number)
	} else {
		// A hello is long, so that the answer can be.
		for c.client && len(b) < packet.DatagramMin-4 {
			b = append(b, byte(packet.FramePadding))
		}
		b = packet.AppendChecksum(b)
	}
	h.number++
	h.tx += len(b)
	if h.next == clock.Never || h.repeat == 0 {
		h.repeat = shakeRepeatMin
		h.said, h.next = c.now, c.now.Add(h.repeat)
	}
	c.stats.TxPackets++
	c.stats.TxBytes += uint64(len(b))
	return len(b)
}

// onRetry starts again with the token that the server gave.
func (c *Conn) onRetry(b []byte) {
	h := &c.shake
	token, err := packet.DecodeRetry(b)
	if err != nil || !c.client || h.answered || h.tokenUsed {
		c.stats.RxInvalid++
		return
	}
	h.token = append([]byte(nil), token...)
	h.tokenUsed = true
	h.out[LevelInitial].next = 0
	h.repeat = 0
}

func (c *Conn) onRefusal(b []byte) {
	version, err := packet.DecodeRefusal(b)
	if err != nil || !c.client || c.shake.answered {
		c.stats.RxInvalid++
		return
	}
	c.die(fmt.Errorf("%w by the peer: it speaks version %d of the wire, this node version %d; upgrade the older one", ErrRefused, version, packet.Version))
}
