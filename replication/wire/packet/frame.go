package packet

import (
	"encoding/binary"
	"errors"
	"time"
)

// FrameType is the first byte of a frame; of a message's, what is left of it
// without its flags.
type FrameType uint8

// The types of frame.
const (
	FramePadding   FrameType = 0 // and all bytes up to the end of the packet
	FramePing      FrameType = 1
	FrameAck       FrameType = 2
	FrameCrypto    FrameType = 3
	FrameCancel    FrameType = 4
	FrameCredit    FrameType = 5
	FrameBlocked   FrameType = 6
	FrameChallenge FrameType = 7
	FrameResponse  FrameType = 8 // to a challenge
	FrameClose     FrameType = 9
	FrameMessage   FrameType = 0x40
)

// Flags in the first byte of a message frame, below the kind.
const (
	kindShift     = 4
	flagChannel   = 1
	flagRemaining = 2
	flagWhole     = 4
)

// Limits of what a frame may say.
const (
	MessageMax = 1 << 20
	ChannelMax = 1023
	ReasonMax  = 200
	// RangesMax is how many ranges one acknowledgement may have.
	RangesMax = 32
)

// MessageHeadMax is the most that a message frame has before its data, in bytes:
// type, ID, total, offset, channel, sequence, reply, remaining, length.
const MessageHeadMax = 1 + 8 + 4 + 4 + 2 + 8 + 8 + 8 + 4

// Message is a piece of a message. Every piece has all that is known of the
// whole, so that any of them may arrive first.
//
//	+---------+----+-------+--------+---------+-----+----------+-----------+--------+------+
//	|01kk0wrc | ID | total | offset | channel | seq | reply to | remaining | length | data |
//	+---------+----+-------+--------+---------+-----+----------+-----------+--------+------+
//	            v    v, -w   v, -w    v, +c     v,+c  v, kk=3    v, +r       v
//
// v is a variable integer; -w, +c and +r are fields that are there without or
// with the flag; kk is the kind.
type Message struct {
	ID        uint64
	Kind      uint8  // 1 Notice, 2 Request, 3 Response
	Total     uint64 // bytes of the whole message
	Offset    uint64 // of Data
	Channel   uint16 // 0: none, and no Sequence
	Sequence  uint64 // in its channel, from 0
	InReplyTo uint64 // Response only
	Remaining time.Duration
	Data      []byte
}

// AppendMessageHead appends all of m but its data, of which there will be n bytes.
func AppendMessageHead(dst []byte, m *Message, n int) []byte {
	first := byte(FrameMessage) | m.Kind<<kindShift
	whole := m.Offset == 0 && m.Total == uint64(n)
	if whole {
		first |= flagWhole
	}
	if m.Channel != 0 {
		first |= flagChannel
	}
	if m.Remaining > 0 {
		first |= flagRemaining
	}
	dst = appendVarint(append(dst, first), m.ID)
	if !whole {
		dst = appendVarint(appendVarint(dst, m.Total), m.Offset)
	}
	if m.Channel != 0 {
		dst = appendVarint(appendVarint(dst, uint64(m.Channel)), m.Sequence)
	}
	if m.Kind == 3 {
		dst = appendVarint(dst, m.InReplyTo)
	}
	if m.Remaining > 0 {
		dst = appendVarint(dst, uint64(m.Remaining/time.Microsecond))
	}
	return appendVarint(dst, uint64(n))
}

func (r *reader) message(first byte, m *Message) {
	*m = Message{Kind: first >> kindShift & 3, ID: r.varint()}
	whole := first&flagWhole != 0
	if !whole {
		m.Total = r.limited(MessageMax)
		m.Offset = r.limited(MessageMax)
	}
	if first&flagChannel != 0 {
		m.Channel = uint16(r.limited(ChannelMax))
		m.Sequence = r.varint()
	}
	if m.Kind == 3 {
		m.InReplyTo = r.varint()
	}
	if first&flagRemaining != 0 {
		m.Remaining = time.Duration(r.limited(uint64(24*time.Hour/time.Microsecond))) * time.Microsecond
	}
	n := r.limited(MessageMax)
	m.Data = r.bytes(n)
	if whole {
		m.Total = n
	}
	// A piece without bytes says nothing, unless the message has none.
	if m.Kind == 0 || m.ID == 0 || first&8 != 0 || first&flagChannel != 0 && m.Channel == 0 ||
		m.Offset+n > m.Total || n == 0 && m.Total != 0 {
		r.fail()
	}
}

// Ack says which packets arrived. Delay is how long the newest of them waited
// for this frame.
//
//	+---+---------+-------+-------+-------+  +-----+-------+
//	| 2 | largest | delay | count | first |  | gap | range | x (count-1)
//	+---+---------+-------+-------+-------+  +-----+-------+
//
// All but the type are variable integers, the delay in µs. first and range
// are the packets of a range less one, gap the missing ones between less one.
type Ack struct {
	Largest uint64
	Delay   time.Duration
	first   uint64
	more    []byte // gaps and ranges, checked
}

// Range is packets First to Last, both among them.
type Range struct{ First, Last uint64 }

// AppendAck appends an Ack of ranges, the newest first, of which there is at
// least one and at most RangesMax.
func AppendAck(dst []byte, ranges []Range, delay time.Duration) []byte {
	newest := ranges[0]
	dst = appendVarint(append(dst, byte(FrameAck)), newest.Last)
	dst = appendVarint(dst, uint64(max(0, delay)/time.Microsecond))
	dst = appendVarint(dst, uint64(len(ranges)))
	dst = appendVarint(dst, newest.Last-newest.First)
	for i, r := range ranges[1:] {
		dst = appendVarint(dst, ranges[i].First-r.Last-2)
		dst = appendVarint(dst, r.Last-r.First)
	}
	return dst
}

// AckLenMax returns the most bytes that AppendAck appends for n ranges.
func AckLenMax(n int) int { return 1 + 8 + 8 + 1 + 8 + (n-1)*16 }

func (r *reader) ack(a *Ack) {
	a.Largest = r.limited(NumberMax)
	a.Delay = time.Duration(r.limited(uint64(time.Hour/time.Microsecond))) * time.Microsecond
	count := r.limited(RangesMax)
	a.first = r.limited(a.Largest)
	if count == 0 {
		r.fail()
		return
	}
	a.more = r.b
	low := a.Largest - a.first
	for range count - 1 {
		gap := r.limited(NumberMax)
		length := r.limited(NumberMax)
		if r.failed || gap+2 > low || length > low-gap-2 {
			r.fail()
			return
		}
		low -= gap + 2 + length
	}
	a.more = a.more[:len(a.more)-len(r.b)]
}

// Newest is the range with the largest number.
func (a *Ack) Newest() Range { return Range{a.Largest - a.first, a.Largest} }

// Older takes the next range, below r, off the frame.
func (a *Ack) Older(r Range) (Range, bool) {
	if len(a.more) == 0 {
		return Range{}, false
	}
	gap, n := varint(a.more)
	length, n2 := varint(a.more[n:])
	a.more = a.more[n+n2:]
	last := r.First - gap - 2
	return Range{last - length, last}, true
}

// Cancel says that the sender gave its message up.
//
//	+---+-------+----+-------+---------+-----+
//	| 4 | flags | ID | total | channel | seq |
//	+---+-------+----+-------+---------+-----+
//
// Flags: 1 a piece may have been sent, so total, channel and seq count; 2 a
// Request.
type Cancel struct {
	ID       uint64
	Started  bool
	Request  bool
	Total    uint64
	Channel  uint16
	Sequence uint64
}

// CancelLenMax is the most bytes that AppendCancel appends.
const CancelLenMax = 1 + 1 + 8 + 4 + 2 + 8

// AppendCancel appends c.
func AppendCancel(dst []byte, c *Cancel) []byte {
	var flags byte
	if c.Started {
		flags |= 1
	}
	if c.Request {
		flags |= 2
	}
	dst = appendVarint(append(dst, byte(FrameCancel), flags), c.ID)
	dst = appendVarint(appendVarint(dst, c.Total), uint64(c.Channel))
	return appendVarint(dst, c.Sequence)
}

func (r *reader) cancel(c *Cancel) {
	flags := r.limited(3)
	*c = Cancel{Started: flags&1 != 0, Request: flags&2 != 0, ID: r.varint()}
	c.Total = r.limited(MessageMax)
	c.Channel = uint16(r.limited(ChannelMax))
	c.Sequence = r.varint()
	if c.ID == 0 {
		r.fail()
	}
}

// Credit says how much may have been sent, since the start of the connection:
// bytes of messages, and messages. Both only grow. Blocked has the same
// fields: the credit that its sender has used up.
type Credit struct{ Bytes, Messages uint64 }

// CreditLenMax is the most bytes that AppendCredit appends.
const CreditLenMax = 1 + 8 + 8

// AppendCredit appends c as a frame of type t, FrameCredit or FrameBlocked.
func AppendCredit(dst []byte, t FrameType, c Credit) []byte {
	return appendVarint(appendVarint(append(dst, byte(t)), c.Bytes), c.Messages)
}

// Crypto carries handshake bytes of the packet's level.
type Crypto struct {
	Offset uint64
	Data   []byte
}

// CryptoHeadMax is the most that a crypto frame has before its data, in bytes.
const CryptoHeadMax = 1 + 4 + 4

// AppendCrypto appends c.
func AppendCrypto(dst []byte, c Crypto) []byte {
	dst = appendVarint(append(dst, byte(FrameCrypto)), c.Offset)
	return append(appendVarint(dst, uint64(len(c.Data))), c.Data...)
}

// ChallengeLen is the length of a challenge and of a response.
const ChallengeLen = 1 + 8

// AppendChallenge appends a frame of type t, FrameChallenge or FrameResponse.
func AppendChallenge(dst []byte, t FrameType, value uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, byte(t)), value)
}

// CloseCode says why a connection ends.
type CloseCode uint8

// The reasons to close.
const (
	CloseDone      CloseCode = 0 // in order
	CloseRefused   CloseCode = 1 // the handshake failed
	CloseViolation CloseCode = 2 // the receiver of the frame broke the protocol
)

// Close ends the connection.
type Close struct {
	Code   CloseCode
	Reason []byte // UTF-8, for people; at most ReasonMax bytes
}

// AppendClose appends a Close; reason is cut to ReasonMax bytes.
func AppendClose(dst []byte, code CloseCode, reason string) []byte {
	reason = reason[:min(len(reason), ReasonMax)]
	dst = appendVarint(append(dst, byte(FrameClose), byte(code)), uint64(len(reason)))
	return append(dst, reason...)
}

// AppendPing appends a ping.
func AppendPing(dst []byte) []byte { return append(dst, byte(FramePing)) }

// Frame is one that was decoded: Type says which of the fields counts. Slices
// alias the packet.
type Frame struct {
	Type      FrameType
	Message   Message
	Ack       Ack
	Cancel    Cancel
	Credit    Credit // FrameCredit, FrameBlocked
	Crypto    Crypto
	Challenge uint64 // FrameChallenge, FrameResponse
	Close     Close
}

// ErrFrame is returned for frames that follow no rule. A peer that is not
// broken never sends one, since packets are protected.
var ErrFrame = errors.New("malformed frame")

// DecodeFrame reads the frame that b, not empty, starts with into f, and
// returns what follows.
func DecodeFrame(b []byte, f *Frame) (rest []byte, err error) {
	first := b[0]
	r := reader{b: b[1:]}
	if first&0xc0 == byte(FrameMessage) {
		f.Type = FrameMessage
		r.message(first, &f.Message)
		if r.failed {
			return nil, ErrFrame
		}
		return r.b, nil
	}
	f.Type = FrameType(first)
	switch f.Type {
	case FramePadding:
		r.b = nil
	case FramePing:
	case FrameAck:
		r.ack(&f.Ack)
	case FrameCrypto:
		f.Crypto.Offset = r.limited(1 << 20)
		f.Crypto.Data = r.bytes(r.limited(1 << 20))
	case FrameCancel:
		r.cancel(&f.Cancel)
	case FrameCredit, FrameBlocked:
		f.Credit = Credit{Bytes: r.varint(), Messages: r.varint()}
	case FrameChallenge, FrameResponse:
		f.Challenge = r.uint64()
	case FrameClose:
		f.Close.Code = CloseCode(r.limited(uint64(CloseViolation)))
		f.Close.Reason = r.bytes(r.limited(ReasonMax))
	default:
		r.fail()
	}
	if r.failed {
		return nil, ErrFrame
	}
	return r.b, nil
}
