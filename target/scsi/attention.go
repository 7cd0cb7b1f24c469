package scsi

import (
	"math/bits"
	"sync/atomic"
)

// attention is one kind of unit attention condition (SAM-5 §5.14). They are
// bits of a word per I_T_L nexus, reported lowest first, so that raising and
// testing them takes no lock.
type attention uint32

// The unit attentions that the device server raises, most important first.
const (
	uaPowerOn attention = 1 << iota
	uaBusReset
	uaDeviceReset
	uaNexusLoss
	uaReportedLUNs
	uaInquiryChanged
	uaCapacityChanged
	uaModeChanged
	uaLogChanged
	uaReservationsPreempted
	uaReservationsReleased
	uaRegistrationsPreempted
	uaAccessStateChanged
	uaCommandsCleared
	uaSpaceLow
)

// attentionCodes are the additional sense codes, by bit number.
var attentionCodes = [...]additional{
	0x2900, 0x2902, 0x2903, 0x2907, 0x3f0e, 0x3f03, 0x2a09, 0x2a01, 0x2a02,
	0x2a03, 0x2a04, 0x2a05, 0x2a06, 0x2f00, 0x3807,
}

// attentions is the set of pending conditions of one I_T_L nexus.
type attentions struct{ word atomic.Uint32 }

func (a *attentions) raise(u attention) { a.word.Or(uint32(u)) }
func (a *attentions) pending() bool     { return a.word.Load() != 0 }

// take removes the most important condition and gives its sense; ok is false
// when there is none.
func (a *attentions) take() (s sense, ok bool) {
	for {
		w := a.word.Load()
		if w == 0 {
			return sense{}, false
		}
		if a.word.CompareAndSwap(w, w&(w-1)) {
			return sense{key: keyUnitAttention, asc: attentionCodes[bits.TrailingZeros32(w)]}, true
		}
	}
}

// drop removes conditions without reporting them.
func (a *attentions) drop(u attention) { a.word.And(^uint32(u)) }
