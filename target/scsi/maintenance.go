package scsi

import "encoding/binary"

// maintenanceCommands are the service actions of MAINTENANCE IN and OUT.
var maintenanceCommands = []command{
	{name: "REPORT TARGET PORT GROUPS", cdb: "a3 ea 00 00 00 00 ff ff ff ff 00 00", access: accessStatus,
		prepare: prepareReportGroups, execute: reportGroups},
	{name: "REPORT SUPPORTED OPERATION CODES", cdb: "a3 0c 87 ff ff ff ff ff ff ff 00 00", access: accessRead,
		prepare: prepareReportOpcodes, execute: reportOpcodes},
	{name: "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", cdb: "a3 0d 80 00 00 00 ff ff ff ff 00 00", access: accessRead,
		prepare: prepareReportTMFs, execute: reportTMFs},
	{name: "SET TARGET PORT GROUPS", cdb: "a4 0a 00 00 00 00 ff ff ff ff 00 00", access: accessWrite,
		prepare: func(t *Task) sense { return t.wantOut(be32(t.state.cdb[6:]), responseMax) }, execute: setGroups},
}

// The REPORTING OPTIONS of REPORT SUPPORTED OPERATION CODES.
const (
	reportAll         = 0
	reportOpcode      = 1
	reportService     = 2
	reportEither      = 3
	supportNo         = 1 // SUPPORT field: not supported
	supportYes        = 3 // supported as the standard has it
	timeoutDescriptor = 12
)

func prepareReportOpcodes(t *Task) sense {
	cdb := &t.state.cdb
	e := byOpcode[cdb[3]]
	switch option := cdb[2] & 7; option {
	case reportAll, reportEither:
	case reportOpcode:
		if e != nil && e.service != nil {
			return badCDBByte(3)
		}
	case reportService:
		if e != nil && e.service == nil {
			return badCDBByte(3)
		}
	default:
		return badCDB(2, 2)
	}
	return t.wantIn(be32(cdb[6:]))
}

// offered reports whether the unit of t has c.
func (t *Task) offered(c *command) bool {
	return c != nil && (c.supported == nil || c.supported(t.state.itl.lu))
}

// reportOpcodes is SPC-4 §6.35: the opcode table, read out.
func reportOpcodes(t *Task) {
	cdb := &t.state.cdb
	timeouts := cdb[2]&0x80 != 0
	if cdb[2]&7 == reportAll {
		t.reply(allOpcodes(t, timeouts))
		return
	}
	var c *command
	if e := byOpcode[cdb[3]]; e != nil {
		switch service := be16(cdb[4:]); {
		case e.service != nil && service < 32 && cdb[2]&7 != reportOpcode:
			c = e.service[service]
		case e.service == nil && (service == 0 || cdb[2]&7 == reportOpcode):
			c = e.plain
		}
	}
	b := make([]byte, 4, 32)
	b[1] = supportNo
	if t.offered(c) {
		b[1] = supportYes
		binary.BigEndian.PutUint16(b[2:], uint16(len(c.usage)))
		b = append(b, c.usage...)
		if timeouts {
			b[1] |= 0x80 // CTDP
			b = appendTimeouts(b)
		}
	}
	t.reply(b)
}

func allOpcodes(t *Task, timeouts bool) []byte {
	b := make([]byte, 4, 4+len(table)*(8+timeoutDescriptor))
	for _, c := range table {
		if !t.offered(c) {
			continue
		}
		d := [8]byte{0: c.opcode, 7: byte(len(c.usage))}
		if c.service >= 0 {
			d[3] = byte(c.service)
			d[5] = 0x01 // SERVACTV
		}
		if timeouts {
			d[5] |= 0x02 // CTDP
		}
		b = append(b, d[:]...)
		if timeouts {
			b = appendTimeouts(b)
		}
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

// appendTimeouts adds a command timeouts descriptor; zero means that there is
// no estimate (SPC-4 §6.35.4).
func appendTimeouts(b []byte) []byte {
	return append(b, append([]byte{0, 0x0a}, make([]byte, 10)...)...)
}

func prepareReportTMFs(t *Task) sense {
	allocation := be32(t.state.cdb[6:])
	if allocation < 4 {
		return badCDBByte(6)
	}
	return t.wantIn(allocation)
}

// reportTMFs is SPC-4 §6.36: what TaskManagement performs.
func reportTMFs(t *Task) {
	b := []byte{0x80 | 0x40 | 0x10 | 0x08, 0, 0, 0} // ATS, ATSS, CTSS, LURS
	if t.state.cdb[2]&0x80 != 0 {                   // REPD: extended, with no timeouts
		b = append(b, make([]byte, 12)...)
		b[3] = 12
	}
	t.reply(b)
}
