package scsi

import (
	"bytes"
	"encoding/binary"

	"blockd.dev/blockdev"
)

// pageCommands are MODE SENSE and SELECT, LOG SENSE and SELECT.
var pageCommands = []command{
	{name: "MODE SENSE (6)", cdb: "1a 08 ff ff ff 00", access: accessRead, prepare: prepareModeSense, execute: modeSense},
	{name: "MODE SENSE (10)", cdb: "5a 18 ff ff 00 00 00 ff ff 00", access: accessRead, prepare: prepareModeSense, execute: modeSense},
	{name: "MODE SELECT (6)", cdb: "15 11 00 00 ff 00", access: accessWrite, prepare: prepareModeSelect, execute: modeSelect},
	{name: "MODE SELECT (10)", cdb: "55 11 00 00 00 00 00 ff ff 00", access: accessWrite, prepare: prepareModeSelect, execute: modeSelect},
	{name: "LOG SENSE", cdb: "4d 01 ff ff 00 ff ff ff ff 00", ignored: "00 02 00 00 00 00 00 00 00 00", access: accessStatus, prepare: prepareLogSense, execute: logSense},
	{name: "LOG SELECT", cdb: "4c 03 ff ff 00 00 00 ff ff 00", access: accessWrite, prepare: prepareLogSelect, execute: logSelect},
}

const (
	pageErrors     = 0x01
	pageCaching    = 0x08
	pageControl    = 0x0a
	pageExceptions = 0x1c
	pageAll        = 0x3f
)

// modePage is one page: its contents for a mode word, and which bits MODE
// SELECT may change. Nothing is saved (PS=0).
type modePage struct {
	code, subpage byte
	header        int            // bytes before the parameters: 2, or 4 with a subpage
	supported     func(*LU) bool // nil means every unit
	current       func(lu *LU, word uint32) []byte
	changeable    []byte
	// word takes the changed page back into a mode word.
	word func(page []byte, word uint32) uint32
}

// bit is mask when flag is set in word.
func bit(word, flag uint32, mask byte) byte {
	if word&flag != 0 {
		return mask
	}
	return 0
}

// with is word with flag set or cleared.
func with(word, flag uint32, on bool) uint32 {
	if on {
		return word | flag
	}
	return word &^ flag
}

func (m *modePage) on(lu *LU) bool { return m.supported == nil || m.supported(lu) }

// modePages are in the order in which all of them are returned.
var modePages = []modePage{
	{
		code: pageErrors, header: 2, // read-write error recovery
		current: func(_ *LU, w uint32) []byte {
			p := make([]byte, 12)
			p[0], p[1] = pageErrors, 10
			p[7] = bit(w, modeLBPERE, 0x80)
			return p
		},
		changeable: []byte{pageErrors, 10, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0},
		word:       func(p []byte, w uint32) uint32 { return with(w, modeLBPERE, p[7]&0x80 != 0) },
	},
	{
		code: pageCaching, header: 2,
		current: func(_ *LU, w uint32) []byte {
			p := make([]byte, 20)
			p[0], p[1] = pageCaching, 18
			p[2] = bit(w, modeWCE, 0x04)
			return p
		},
		changeable: append([]byte{pageCaching, 18, 0x04}, make([]byte, 17)...),
		word:       func(p []byte, w uint32) uint32 { return with(w, modeWCE, p[2]&0x04 != 0) },
	},
	{
		code: pageControl, header: 2,
		current: func(_ *LU, w uint32) []byte {
			p := make([]byte, 12)
			p[0], p[1] = pageControl, 10
			p[2] = 0x20 | bit(w, modeDSense, 0x04) | 0x02 // TST=001b; GLTSD: no log is saved
			p[3] = 0x10                                   // QUEUE ALGORITHM MODIFIER 1: SIMPLE tasks are reordered
			p[4] = bit(w, modeSWP, 0x08)
			p[5] = bit(w, modeTAS, 0x40)
			return p
		},
		changeable: []byte{pageControl, 10, 0x04, 0, 0x08, 0x40, 0, 0, 0, 0, 0, 0},
		word: func(p []byte, w uint32) uint32 {
			w = with(w, modeDSense, p[2]&0x04 != 0)
			w = with(w, modeSWP, p[4]&0x08 != 0)
			return with(w, modeTAS, p[5]&0x40 != 0)
		},
	},
	{
		code: pageControl, subpage: 1, header: 4, // control extension
		current: func(*LU, uint32) []byte {
			p := make([]byte, 32)
			p[0], p[1], p[3] = 0x40|pageControl, 1, 28
			p[4] = 0x01 // IALUAE: access states change without being asked
			return p
		},
		changeable: append([]byte{0x40 | pageControl, 1, 0, 28}, make([]byte, 28)...),
	},
	{
		code: pageExceptions, header: 2,
		current: func(*LU, uint32) []byte {
			p := make([]byte, 12)
			p[0], p[1] = pageExceptions, 10
			p[2] = 0x08 // DEXCPT: none are reported
			return p
		},
		changeable: append([]byte{pageExceptions, 10}, make([]byte, 10)...),
	},
	{
		code: pageExceptions, subpage: 2, header: 4, // logical block provisioning
		supported: (*LU).warnsOfSpace,
		current: func(lu *LU, _ uint32) []byte {
			p := make([]byte, 24) // SITUA 0: every nexus is told
			p[0], p[1], p[3] = 0x40|pageExceptions, 2, 20
			p[16], p[17] = 0x80, provisioningAvailable // enabled, soft, armed decreasing
			binary.BigEndian.PutUint32(p[20:], uint32(min(lu.conf.Load().SoftThreshold>>thresholdShift, 0xffffffff)))
			return p
		},
		changeable: append([]byte{0x40 | pageExceptions, 2, 0, 20}, make([]byte, 20)...),
	},
}

func prepareModeSense(t *Task) sense {
	cdb := &t.state.cdb
	page, subpage := cdb[2]&0x3f, cdb[3]
	if cdb[2]>>6 == 3 {
		return illegal(ascSavingNotSupported)
	}
	if page == pageAll {
		if subpage != 0 && subpage != 0xff {
			return badCDBByte(3)
		}
	} else {
		found, foundPage := false, false
		for i := range modePages {
			if m := &modePages[i]; m.code == page && m.on(t.state.itl.lu) {
				foundPage = true
				found = found || m.subpage == subpage || subpage == 0xff
			}
		}
		if !foundPage {
			return badCDB(2, 5)
		}
		if !found {
			return badCDBByte(3)
		}
	}
	if len(t.state.cmd.usage) == 6 {
		return t.wantIn(uint32(cdb[4]))
	}
	return t.wantIn(uint32(be16(cdb[7:])))
}

// modeSense is SPC-4 §6.11 and §6.12.
func modeSense(t *Task) {
	st := &t.state
	lu := st.itl.lu
	cdb := &st.cdb
	long := len(st.cmd.usage) == 10

	var b []byte
	if long {
		b = make([]byte, 8)
	} else {
		b = make([]byte, 4)
	}
	deviceSpecific := byte(0x10) // DPOFUA
	if s := lu.writable(); !s.ok() {
		deviceSpecific |= 0x80 // WP
	}
	header := len(b)
	if cdb[1]&0x08 == 0 { // DBD
		b = append(b, lu.blockDescriptor(long && cdb[1]&0x10 != 0)...)
	}
	descriptor := len(b) - header

	word := lu.mode.word.Load()
	if cdb[2]>>6 == 2 {
		word = modeDefaults(lu.conf.Load())
	}
	page, subpage := cdb[2]&0x3f, cdb[3]
	for i := range modePages {
		m := &modePages[i]
		if !m.on(lu) {
			continue
		}
		if page != pageAll && page != m.code || subpage != 0xff && subpage != m.subpage {
			continue
		}
		if cdb[2]>>6 == 1 {
			b = append(b, m.changeable...)
		} else {
			b = append(b, m.current(lu, word)...)
		}
	}
	if long {
		binary.BigEndian.PutUint16(b, uint16(len(b)-2))
		b[3] = deviceSpecific
		b[4] = cdb[1] >> 4 & 1 // LONGLBA
		binary.BigEndian.PutUint16(b[6:], uint16(descriptor))
	} else {
		b[0] = byte(len(b) - 1)
		b[2] = deviceSpecific
		b[3] = byte(descriptor)
	}
	t.reply(b)
}

// blockDescriptor is the short or the long LBA mode parameter block
// descriptor (SBC-3 §6.4.2).
func (lu *LU) blockDescriptor(long bool) []byte {
	blocks, size := lu.blocks(), uint32(lu.blockSize())
	if long {
		b := make([]byte, 16)
		binary.BigEndian.PutUint64(b, blocks)
		binary.BigEndian.PutUint32(b[12:], size)
		return b
	}
	b := make([]byte, 8)
	binary.BigEndian.PutUint32(b, uint32(min(blocks, 0xffffffff)))
	binary.BigEndian.PutUint32(b[4:], size) // the byte above is reserved, size is below 2^24
	return b
}

func prepareModeSelect(t *Task) sense {
	cdb := &t.state.cdb
	if cdb[1]&0x01 != 0 { // SP: nothing can be saved
		return badCDB(1, 0)
	}
	length := uint32(cdb[4])
	if len(t.state.cmd.usage) == 10 {
		length = uint32(be16(cdb[7:]))
	}
	if length > 0 && cdb[1]&0x10 == 0 { // PF
		return badCDB(1, 4)
	}
	return t.wantOut(length, 0xffff)
}

// modeSelect checks the whole list, then changes everything at once
// (SPC-4 §6.9).
func modeSelect(t *Task) {
	if t.Length == 0 {
		t.good()
		return
	}
	p := t.parameters()
	if len(p) < t.Length {
		t.fail(illegal(ascParameterListLength))
		return
	}
	lu := t.state.itl.lu
	old := lu.mode.word.Load()
	word, s := lu.parseModeList(p, old, len(t.state.cmd.usage) == 10)
	if !s.ok() {
		t.fail(s)
		return
	}
	if word == old {
		t.good()
		return
	}
	lu.mode.word.Store(word)
	lu.raise(uaModeChanged, func(n *Nexus) bool { return n != t.state.nexus })
	if old&modeWCE != 0 && word&modeWCE == 0 {
		// What was acknowledged from the cache becomes durable with the switch.
		t.submit(blockdev.OpFlush, 0, 0, nil, ioDone)
		return
	}
	t.good()
}

// parseModeList returns the mode word that p asks for.
func (lu *LU) parseModeList(p []byte, word uint32, long bool) (uint32, sense) {
	header := 4
	if long {
		header = 8
	}
	if len(p) < header {
		return 0, illegal(ascParameterListLength)
	}
	descriptor, at := int(p[3]), 3
	longLBA := false
	if long {
		descriptor, at = int(be16(p[6:])), 6
		longLBA = p[4]&1 != 0
	}
	if len(p) < header+descriptor {
		return 0, illegal(ascParameterListLength)
	}
	switch want := lu.blockDescriptor(longLBA); {
	case descriptor == 0:
	case descriptor != len(want):
		return 0, badParam(at)
	default:
		got := p[header : header+descriptor]
		n := len(want) / 2 // the number of blocks; 0 leaves it alone
		if !zeroes([][]byte{got[:n]}) && !bytes.Equal(got[:n], want[:n]) {
			return 0, badParam(header)
		}
		if !bytes.Equal(got[n:], want[n:]) {
			return 0, badParam(header + n)
		}
	}
	for at = header + descriptor; at < len(p); {
		m, s := lu.findModePage(p, at)
		if !s.ok() {
			return 0, s
		}
		is := m.current(lu, word)
		if at+len(is) > len(p) {
			return 0, illegal(ascParameterListLength)
		}
		got := p[at : at+len(is)]
		if m.header == 2 && got[1] != is[1] || m.header == 4 && be16(got[2:]) != be16(is[2:]) {
			return 0, badParam(at + m.header - 1)
		}
		for i := m.header; i < len(is); i++ {
			if (got[i]^is[i])&^m.changeable[i] != 0 {
				return 0, badParam(at + i)
			}
		}
		if m.word != nil {
			word = m.word(got, word)
		}
		at += len(is)
	}
	return word, sense{}
}

func (lu *LU) findModePage(p []byte, at int) (*modePage, sense) {
	if at+2 > len(p) {
		return nil, illegal(ascParameterListLength)
	}
	subpage := byte(0)
	if p[at]&0x40 != 0 {
		if at+4 > len(p) {
			return nil, illegal(ascParameterListLength)
		}
		subpage = p[at+1]
	}
	for i := range modePages {
		if m := &modePages[i]; m.on(lu) && m.code == p[at]&0x3f && m.subpage == subpage && (m.header == 4) == (p[at]&0x40 != 0) {
			return m, sense{}
		}
	}
	return nil, badParam(at)
}
