package wire

import (
	"crypto/subtle"
	"fmt"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/wire/packet"
)

// Receive takes a datagram that arrived on path. It may decrypt it in place
// and keeps no reference. What is not valid is counted and otherwise ignored.
// A path that was not added is ignored too: see ReceiveNew.
func (c *Conn) Receive(now clock.Mono, path PathID, datagram []byte) {
	if path >= PathsMax || !c.paths[path].known {
		c.stats.RxInvalid++
		return
	}
	c.receive(now, path, datagram, nil)
}

// ReceiveNew takes a datagram that Inspect routes here and that comes by a way
// which is no path yet: from a new address, or through another link. Only when
// it has proved to be the peer's, and is no replay, adopt is called: it calls
// AddPath and returns the new path, or false to have none, for example because
// all are taken. So nobody takes paths by forging addresses. The datagram counts
// either way.
func (c *Conn) ReceiveNew(now clock.Mono, datagram []byte, adopt func() (PathID, bool)) {
	c.receive(now, noPath, datagram, adopt)
}

// noPath is where a datagram comes from that ReceiveNew was given.
const noPath = PathID(PathsMax)

func (c *Conn) receive(now clock.Mono, path PathID, datagram []byte, adopt func() (PathID, bool)) {
	c.advance(now)
	c.collect()
	hd, err := packet.DecodeHeader(datagram)
	if err != nil || c.state == down {
		c.stats.RxInvalid++
		return
	}
	switch hd.Type {
	case packet.TypeData:
		c.receiveData(path, &hd, datagram, adopt)
	case packet.TypeReset:
		c.onReset(&hd, datagram)
	case packet.TypeInitial, packet.TypeHandshake, packet.TypeRetry, packet.TypeRefusal:
		switch {
		case c.state != connecting || path == noPath:
			c.stats.RxInvalid++ // late, or from elsewhere, and of no use
		case hd.Type == packet.TypeRetry:
			c.onRetry(datagram)
		case hd.Type == packet.TypeRefusal:
			c.onRefusal(datagram)
		default:
			c.receiveHandshake(path, &hd, datagram)
		}
	}
	c.signalRoom()
}

// onReset ends a connection that the peer has forgotten. Only who restarted
// with the same secret knows the token.
func (c *Conn) onReset(hd *packet.Header, b []byte) {
	token, err := packet.DecodeReset(b)
	if err != nil || c.state == connecting || hd.Dest != c.remote ||
		subtle.ConstantTimeCompare(token[:], c.params.ResetToken[:]) == 0 {
		c.stats.RxInvalid++
		return
	}
	if c.state == closing {
		c.die(c.err) // it has heard, and is gone
		return
	}
	c.die(fmt.Errorf("%w: it answered that it does not know the connection", ErrPeerRestart))
}

// receiveData takes a packet that is protected by the traffic keys.
func (c *Conn) receiveData(path PathID, hd *packet.Header, b []byte, adopt func() (PathID, bool)) {
	size := len(b)
	if c.opening.now == nil || hd.Dest != c.cfg.LocalID {
		c.stats.RxInvalid++
		return
	}
	if !c.received.fresh(hd.Number) && !c.mutant.skipReplay {
		c.stats.RxDuplicate++
		return
	}
	payload, ok := c.opening.open(b, hd.Len(), hd.Number, hd.Phase)
	if !ok {
		c.stats.RxInvalid++
		c.onForged()
		return
	}
	if c.state == connecting {
		if !c.shake.done || !c.client {
			c.stats.RxInvalid++
			return
		}
		c.goUp() // the server has accepted us
	}
	c.heard = c.now
	if c.state == closing {
		c.closeSend = true // the peer hasn't heard yet
		return
	}
	if path == noPath {
		if id, ok := adopt(); ok {
			path = id
		}
	}
	eliciting, urgent, v := c.dataFrames(path, payload)
	if c.state == down || c.state == closing {
		return
	}
	switch v {
	case noBuffer:
		c.stats.RxNoBuffer++
		return
	case violation:
		c.end(packet.CloseViolation, "a frame that follows no rule", fmt.Errorf("%w: a frame that follows no rule", ErrProtocol))
		return
	case taken:
	}
	c.received.take(hd.Number)
	c.stats.RxPackets++
	c.stats.RxBytes += uint64(size)
	c.acks.note(c.now, hd.Number, size, eliciting, urgent, c.cfg.AckDelay)
}

// onForged ends the connection before its keys have been tried too often. The
// next one has others.
func (c *Conn) onForged() {
	if c.opening.spent() && (c.state == up || c.state == draining) {
		text := fmt.Sprintf("%d packets that were not the peer's came for this connection", c.opening.forged)
		c.end(packet.CloseDone, text, fmt.Errorf("%w: %s", ErrForged, text))
	}
}

// dataFrames takes the frames of a packet. Taking one twice, because a packet
// was dropped halfway for want of memory, changes nothing.
func (c *Conn) dataFrames(path PathID, b []byte) (eliciting, urgent bool, v verdict) {
	for len(b) > 0 {
		f := &c.frame
		rest, err := packet.DecodeFrame(b, f)
		if err != nil {
			return false, false, violation
		}
		b = rest
		if f.Type != packet.FrameAck && f.Type != packet.FramePadding && f.Type != packet.FrameClose {
			eliciting = true
		}
		switch f.Type {
		case packet.FrameMessage:
			v = c.onMessage(&f.Message)
		case packet.FrameAck:
			v = c.onAck(&f.Ack)
		case packet.FramePing:
			urgent = true
		case packet.FrameCredit:
			c.onCredit(&f.Credit)
		case packet.FrameBlocked:
			c.onBlocked(&f.Credit)
		case packet.FrameCancel:
			v = c.onCancel(&f.Cancel)
		case packet.FrameChallenge:
			urgent = true
			c.onChallenge(path, f.Challenge)
		case packet.FrameResponse:
			c.onResponse(f.Challenge)
		case packet.FrameClose:
			c.onClose(&f.Close)
			return false, false, taken
		case packet.FramePadding:
		case packet.FrameCrypto:
			v = violation
		}
		if v != taken {
			return false, false, v
		}
	}
	return eliciting, urgent, taken
}
