package scsi

import (
	"encoding/binary"
	"slices"
)

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

func prepareReportGroups(t *Task) sense {
	if f := t.state.cdb[1] >> 5; f > 1 { // PARAMETER DATA FORMAT
		return badCDB(1, 7)
	}
	return t.wantIn(be32(t.state.cdb[6:]))
}

// Why a group is in its state: the STATUS CODE field of RTPG.
const (
	statusUnchanged = 0x00
	statusByHost    = 0x01
	statusByTarget  = 0x02
)

// reportGroups is SPC-4 §6.37.
func reportGroups(t *Task) {
	conf := t.state.nexus.target.conf.Load()
	b := make([]byte, 4, 64)
	if t.state.cdb[1]>>5 == 1 { // extended header: no implicit transition time
		b = append(b, 0x10, 0, 0, 0)
	}
	for _, g := range conf.groups {
		d := [8]byte{0: byte(g.State), 1: 0x0f, 2: byte(g.ID >> 8), 3: byte(g.ID), 5: conf.changedBy[g.ID]}
		if g.Preferred {
			d[0] |= 0x80
		}
		at := len(b)
		b = append(b, d[:]...)
		for _, p := range conf.Ports {
			if p.Group == g.ID {
				b = append(b, 0, 0, byte(p.RelativeID>>8), byte(p.RelativeID))
				b[at+7]++
			}
		}
	}
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	t.reply(b)
}

// setGroups lets a host choose the access state of port groups (SPC-4 §6.45).
// The states hold until a Configure says something else about a group than the
// one before, or the next SET TARGET PORT GROUPS.
func setGroups(t *Task) {
	if t.Length == 0 {
		t.good()
		return
	}
	p := t.parameters()
	if len(p) < t.Length || len(p) < 4 || len(p)%4 != 0 {
		t.fail(illegal(ascParameterListLength))
		return
	}
	n := t.state.nexus
	if s := n.target.setGroups(n, p); !s.ok() {
		t.fail(s)
		return
	}
	t.good()
}

func (t *Target) setGroups(by *Nexus, p []byte) sense {
	t.mu.Lock()
	defer t.mu.Unlock()
	old := t.conf.Load()
	next := *old
	next.groups = slices.Clone(old.groups)
	next.changedBy = make(map[uint16]byte)
	for id, c := range old.changedBy {
		next.changedBy[id] = c
	}
	var changed []GroupConfig
	for at := 4; at < len(p); at += 4 {
		state := AccessState(p[at] & 0x0f)
		if state > AccessUnavailable {
			return badParam(at)
		}
		id := be16(p[at+2:])
		i := slices.IndexFunc(next.groups, func(g GroupConfig) bool { return g.ID == id })
		if i < 0 {
			return badParam(at + 2)
		}
		if next.groups[i].State != state {
			next.groups[i].State = state
			next.changedBy[id] = statusByHost
			changed = append(changed, next.groups[i])
		}
	}
	if len(changed) == 0 {
		return sense{}
	}
	t.conf.Store(&next)
	for _, lu := range t.mu.units {
		lu.raise(uaAccessStateChanged, func(n *Nexus) bool { return n != by })
	}
	for _, g := range changed {
		t.event(Event{Kind: EventAccessState, Nexus: by.id, Group: g.ID, State: g.State, Text: "a host set the access state of a target port group"})
	}
	return sense{}
}
