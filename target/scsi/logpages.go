package scsi

import (
	"encoding/binary"

	"blockd.dev/blockdev"
)

const (
	logSupported    = 0x00
	logProvisioning = 0x0c
	logTemperature  = 0x0d
	logExceptions   = 0x2f
	logAllSubpages  = 0xff

	temperatureUnknown = 0xff
)

// logPage is one log page: its parameters, in ascending order of their codes.
type logPage struct {
	code       byte
	supported  func(*LU) bool
	parameters func(*LU) []logParameter
}

type logParameter struct {
	code  uint16
	value []byte
}

var logPages = []logPage{
	{code: logProvisioning, supported: func(lu *LU) bool { return lu.thin() && lu.provisioner() != nil }, parameters: provisioningLog},
	{code: logTemperature, parameters: func(*LU) []logParameter {
		// A volume has no temperature: both are reported as not available.
		return []logParameter{{0, []byte{0, temperatureUnknown}}, {1, []byte{0, temperatureUnknown}}}
	}},
	{code: logExceptions, parameters: func(*LU) []logParameter {
		return []logParameter{{0, []byte{0, 0, temperatureUnknown, 0}}}
	}},
}

func (lu *LU) provisioner() blockdev.Provisioner {
	p, _ := lu.device.(blockdev.Provisioner)
	return p
}

// provisioningAvailable is the parameter code and threshold resource of available
// LBA mapping resources.
const provisioningAvailable = 1

// provisioningLog counts threshold sets of 1 MiB (SBC-3 §6.3.4).
func provisioningLog(lu *LU) []logParameter {
	used, left := lu.provisioner().Provisioning()
	count := func(bytes int64, scope byte) []byte {
		v := make([]byte, 8)
		binary.BigEndian.PutUint32(v, uint32(min(max(bytes, 0)>>thresholdShift, 0xffffffff)))
		v[4] = scope
		return v
	}
	// The space left may be shared with other units, what is used is this one's.
	return []logParameter{{provisioningAvailable, count(left, 0x02)}, {2, count(used, 0x01)}}
}

func findLogPage(lu *LU, code byte) *logPage {
	for i := range logPages {
		if p := &logPages[i]; p.code == code && (p.supported == nil || p.supported(lu)) {
			return p
		}
	}
	return nil
}

func prepareLogSense(t *Task) sense {
	cdb := &t.state.cdb
	lu := t.state.itl.lu
	if cdb[1]&1 != 0 { // SP: nothing is saved
		return badCDB(1, 0)
	}
	if pc := cdb[2] >> 6; pc > 1 { // current cumulative values (01b), or thresholds, of which there are none
		return badCDB(2, 7)
	}
	code, subpage := cdb[2]&0x3f, cdb[3]
	if code == logSupported {
		if subpage != 0 && subpage != logAllSubpages {
			return badCDBByte(3)
		}
		if be16(cdb[5:]) != 0 {
			return badCDBByte(5)
		}
	} else {
		p := findLogPage(lu, code)
		switch {
		case p == nil:
			return badCDB(2, 5)
		case subpage != 0:
			return badCDBByte(3)
		}
		ps := p.parameters(lu)
		if be16(cdb[5:]) > ps[len(ps)-1].code {
			return badCDBByte(5)
		}
	}
	return t.wantIn(uint32(be16(cdb[7:])))
}

// logSense is SPC-4 §6.8.
func logSense(t *Task) {
	cdb := &t.state.cdb
	lu := t.state.itl.lu
	code, subpage := cdb[2]&0x3f, cdb[3]
	b := []byte{code, 0, 0, 0}
	if code == logSupported {
		if subpage == logAllSubpages {
			b[0], b[1] = code|0x40, subpage // SPF
			b = append(b, 0, 0, 0, logAllSubpages)
		} else {
			b = append(b, 0)
		}
		for i := range logPages {
			if p := &logPages[i]; p.supported == nil || p.supported(lu) {
				b = append(b, p.code)
				if subpage == logAllSubpages {
					b = append(b, 0)
				}
			}
		}
	} else {
		for _, p := range findLogPage(lu, code).parameters(lu) {
			if p.code >= be16(cdb[5:]) {
				b = append(b, byte(p.code>>8), byte(p.code), 0x03, byte(len(p.value))) // binary list
				b = append(b, p.value...)
			}
		}
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-4))
	t.reply(b)
}

func prepareLogSelect(t *Task) sense {
	cdb := &t.state.cdb
	length := uint32(be16(cdb[7:]))
	switch {
	case cdb[1]&0x01 != 0: // SP
		return badCDB(1, 0)
	case cdb[1]&0x02 != 0 && length != 0: // PCR takes no list
		return badCDBByte(7)
	case cdb[2]&0x3f != 0 || cdb[3] != 0:
		if p := findLogPage(t.state.itl.lu, cdb[2]&0x3f); p == nil || length != 0 {
			return badCDBByte(2)
		}
		if cdb[3] != 0 {
			return badCDBByte(3)
		}
	}
	return t.wantOut(length, 0xffff)
}

// logSelect: no parameter of any page can be set, so only the reset of all
// (which changes nothing, they have no history) and an empty list succeed.
func logSelect(t *Task) {
	if t.Length > 0 {
		t.fail(badParam(0))
		return
	}
	t.good()
}
