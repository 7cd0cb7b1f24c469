package message

import (
	"encoding/binary"
	"errors"
	"fmt"

	"blockd.dev/blockdev"
)

// Host is a request of a host on its way from the node it arrived at to the
// volume's owner.
type Host struct {
	Volume  [16]byte
	Session uint64      // of the sender with the owner; see replication/device
	Guard   uint64      // generation of the reservations by which the sender let it pass
	Op      blockdev.Op // 0 begins the session
	FUA     bool
	NoUnmap bool
	Off     int64
	Len     int64
	Data    []byte // OpWrite, OpCompareAndWrite
}

// HostStatus says how a forwarded request ended.
type HostStatus uint8

// The statuses.
const (
	Done       HostStatus = iota + 1
	Failed                // with the error in Kind; of a write it is not known whether it happened
	NotOwner              // nothing was done: the node does not own the volume
	NoSession             // nothing was done: the session is not, or no longer, known
	Behind                // nothing was done: the sender has old reservations
	Unresolved            // the owner's lease ended: it may have been done or not
)

// HostAnswer is how a Host ended.
type HostAnswer struct {
	Status HostStatus
	Kind   error // Failed: one of blockdev's kinds
	Off    int64 // Failed: the first bad byte
	Cause  string
	Data   []byte // OpRead that is Done
}

const (
	hostFixed   = 16 + 2*8 + 1 + 1 + 2*8
	answerFixed = 1 + 1 + 8 + 4

	flagFUA     = 1
	flagNoUnmap = 2
)

// AppendHost appends what follows h.Data in a message.
func AppendHost(dst []byte, h *Host) []byte {
	be := binary.BigEndian
	dst = append(dst, h.Volume[:]...)
	dst = be.AppendUint64(dst, h.Session)
	dst = be.AppendUint64(dst, h.Guard)
	var flags uint8
	if h.FUA {
		flags |= flagFUA
	}
	if h.NoUnmap {
		flags |= flagNoUnmap
	}
	dst = append(dst, uint8(h.Op), flags)
	dst = be.AppendUint64(dst, uint64(h.Off))
	dst = be.AppendUint64(dst, uint64(h.Len))
	return seal(dst, HostRequest)
}

// DecodeHost returns what a message says. Data aliases it.
func DecodeHost(m []byte) (h Host, err error) {
	m, r, err := open(m, HostRequest, hostFixed)
	if err != nil {
		return h, err
	}
	copy(h.Volume[:], r)
	r = r[len(h.Volume):]
	h.Session, h.Guard = r.u64(), r.u64()
	h.Op = blockdev.Op(r.u8())
	flags := r.u8()
	h.FUA, h.NoUnmap = flags&flagFUA != 0, flags&flagNoUnmap != 0
	h.Off, h.Len = r.i64(), r.i64()
	h.Data = m
	if h.Off < 0 || h.Len < 0 || h.Op == blockdev.OpRead && h.Len > DataMax {
		return h, fmt.Errorf("%w: %s of %d bytes at %d", ErrMalformed, h.Op, h.Len, h.Off)
	}
	return h, nil
}

// kinds are numbered by their place, from 1 on. New ones go to the end.
var kinds = []error{
	blockdev.ErrInvalid, blockdev.ErrOutOfRange, blockdev.ErrReadOnly, blockdev.ErrNoSpace, blockdev.ErrMedium, blockdev.ErrMiscompare,
	blockdev.ErrIO, blockdev.ErrGone, blockdev.ErrBusy, blockdev.ErrFenced,
}

// AnswerOf describes how a device ended a request.
func AnswerOf(r *blockdev.Request) HostAnswer {
	if r.Err == nil {
		return HostAnswer{Status: Done}
	}
	a := HostAnswer{Status: Failed, Kind: blockdev.ErrIO, Off: r.Offset}
	for _, k := range kinds {
		if errors.Is(r.Err, k) {
			a.Kind = k
			break
		}
	}
	var e *blockdev.Error
	if errors.As(r.Err, &e) {
		a.Off = e.Offset
		if e.Err != nil {
			a.Cause = e.Err.Error()
		}
	}
	return a
}

// AppendAnswer appends what follows a.Data in a message.
func AppendAnswer(dst []byte, a *HostAnswer) []byte {
	kind := uint8(0)
	for i, k := range kinds {
		if a.Kind == k {
			kind = uint8(i + 1)
		}
	}
	dst = append(dst, a.Cause...)
	dst = append(dst, uint8(a.Status), kind)
	dst = binary.BigEndian.AppendUint64(dst, uint64(a.Off))
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(a.Cause)))
	return seal(dst, HostResponse)
}

// DecodeAnswer returns what a message says. Data aliases it.
func DecodeAnswer(m []byte) (a HostAnswer, err error) {
	m, r, err := open(m, HostResponse, answerFixed)
	if err != nil {
		return a, err
	}
	a.Status = HostStatus(r.u8())
	if kind := int(r.u8()); kind > 0 && kind <= len(kinds) {
		a.Kind = kinds[kind-1]
	} else if a.Status == Failed {
		a.Kind = blockdev.ErrIO // of a newer node
	}
	a.Off = r.i64()
	m, cause, err := cut(m, r.u32(), 1)
	a.Data, a.Cause = m, string(cause)
	return a, err
}
