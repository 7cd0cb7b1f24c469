package iscsi

import "slices"

// window is the command window of a session (RFC 7143 §4.2.2.1): which CmdSN
// is next and how far ahead the initiator may go. Numbers wrap at 2^32 and
// compare as in RFC 1982.
type window struct {
	exp  uint32   // ExpCmdSN
	max  uint32   // MaxCmdSN, never falls
	gone []uint32 // numbers ahead of exp that will not come: aborted unseen
}

// place is where a CmdSN lies.
type place uint8

const (
	placeOutside place = iota // to be ignored: duplicate, or beyond the window
	placeNext                 // it is its turn
	placeAhead                // in the window, but others are missing
)

func (w *window) init(cmdSN uint32, depth int) {
	w.exp, w.max = cmdSN, cmdSN+uint32(depth)-1
	w.gone = w.gone[:0]
}

// where says where sn lies.
func (w *window) where(sn uint32) place {
	switch {
	case sn == w.exp && int32(w.max-sn) >= 0:
		return placeNext
	case int32(sn-w.exp) > 0 && int32(w.max-sn) >= 0:
		return placeAhead
	}
	return placeOutside
}

// advance takes the command whose turn it is.
func (w *window) advance() {
	w.exp++
	for len(w.gone) > 0 {
		i := slices.Index(w.gone, w.exp)
		if i < 0 {
			return
		}
		w.gone = slices.Delete(w.gone, i, i+1)
		w.exp++
		w.max++
	}
}

// open lets the initiator send one command more, since one has ended.
func (w *window) open() { w.max++ }

// skip counts a number as received that was not (RFC 7143 §11.5.5). It must
// lie in the window.
func (w *window) skip(sn uint32) {
	if w.where(sn) == placeAhead {
		if !slices.Contains(w.gone, sn) {
			w.gone = append(w.gone, sn)
		}
		return
	}
	w.advance()
	w.max++
}
