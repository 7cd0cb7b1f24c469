package scsi

import "encoding/binary"

// prepareReportLUNs checks SELECT REPORT (SPC-4 §6.33).
func prepareReportLUNs(t *Task) sense {
	cdb := &t.state.cdb
	switch cdb[2] {
	case 0x00, 0x01, 0x02, 0x10, 0x11, 0x12:
	default:
		return badCDBByte(2)
	}
	allocation := be32(cdb[6:])
	if allocation < 16 {
		return badCDBByte(6)
	}
	return t.wantIn(allocation)
}

// reportLUNs lists what this nexus sees: units (00h, 02h), well known units
// (01h, 02h), administrative units and their subsidiaries (10h to 12h): none.
func reportLUNs(t *Task) {
	n := t.state.nexus
	b := make([]byte, 8)
	kind := t.state.cdb[2]
	if kind == 0x00 || kind == 0x02 {
		for _, lun := range n.view.Load().luns {
			field := uint64(lun)
			if lun >= 0x100 {
				field |= 1 << 14 // flat space addressing
			}
			b = binary.BigEndian.AppendUint64(b, field<<48)
		}
	}
	if kind == 0x01 || kind == 0x02 {
		b = binary.BigEndian.AppendUint64(b, wlunReportLUNs<<48)
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-8))
	if t.state.itl != nil {
		t.state.itl.ua.drop(uaReportedLUNs) // SPC-4 §6.33: reporting clears it
	} else {
		for _, i := range n.itls() {
			i.ua.drop(uaReportedLUNs)
		}
	}
	t.reply(b)
}
