package nvme

import (
	"encoding/binary"
	"slices"
)

// Log page identifiers (NVMe Base 2.0 figure "Get Log Page - Log Page
// Identifiers").
const (
	logSupported         uint8 = 0x00
	logErrors            uint8 = 0x01
	logSMART             uint8 = 0x02
	logFirmware          uint8 = 0x03
	logChangedNamespaces uint8 = 0x04
	logEffects           uint8 = 0x05
	logANA               uint8 = 0x0c
	logFeatures          uint8 = 0x12
	logDiscovery         uint8 = 0x70
	logReservation       uint8 = 0x80
)

// Bits of Log Page Attributes (LPA) in Identify Controller.
const (
	lpaEffects   = 1 << 1 // Commands Supported and Effects
	lpaExtended  = 1 << 2 // 32-bit length, and offset
	lpaSupported = 1 << 5 // log pages 00h and 12h, and scopes in 05h
)

// logPage is a row of the table of log pages.
type logPage struct {
	id        uint8
	nvm, disc bool // which controllers have it
	build     func(c *Command, ctrl *Controller) ([]byte, Status)
	event     eventKind // that is answered by reading the page; eventKinds: none
}

var logTable [256]*logPage

var logList = []logPage{
	{id: logSupported, nvm: true, disc: true, build: supportedPage, event: eventKinds},
	{id: logErrors, nvm: true, disc: true, build: errorPage, event: eventKinds},
	{id: logSMART, nvm: true, build: smartPage, event: eventSpare},
	{id: logFirmware, nvm: true, build: firmwarePage, event: eventKinds},
	{id: logChangedNamespaces, nvm: true, build: changedPage, event: eventNamespace},
	{id: logEffects, nvm: true, build: effectsPage, event: eventKinds},
	{id: logANA, nvm: true, build: anaPage, event: eventANA},
	{id: logFeatures, nvm: true, disc: true, build: featuresPage, event: eventKinds},
	{id: logDiscovery, disc: true, build: discoveryLog, event: eventDiscovery},
	{id: logReservation, nvm: true, build: reservationPage, event: eventReservation},
}

func init() {
	for i := range logList {
		logTable[logList[i].id] = &logList[i]
	}
}

func (l *logPage) on(ctrl *Controller) bool {
	return l != nil && (ctrl.discovery && l.disc || !ctrl.discovery && l.nvm)
}

// prepareLogPage takes the length from NUMD, which is 0's based dwords.
func prepareLogPage(c *Command) Status {
	if !logTable[c.SQE[40]].on(c.state.queue.ctrl) {
		return InvalidLogPage | DNR
	}
	numd := uint64(binary.LittleEndian.Uint16(c.SQE[42:])) | uint64(binary.LittleEndian.Uint16(c.SQE[44:]))<<16
	bytes := (numd + 1) * 4
	if bytes > MaxTransferBytes {
		return InvalidField | DNR
	}
	if c.cdq(12)&3 != 0 || c.SQE[58]&0x80 != 0 {
		return InvalidField | DNR // LPO is in dwords; OT, an index, is not supported
	}
	return c.paramIn(int(bytes))
}

// getLogPage gives a piece of a log page, zeroes behind its end (NVMe Base 2.0
// §5.16). Without RAE it also counts as the answer to the page's event.
func getLogPage(c *Command) {
	ctrl := c.state.queue.ctrl
	row := logTable[c.SQE[40]]
	keep := c.SQE[41]&0x80 != 0 // RAE
	p, s := row.build(c, ctrl)
	if s != Success {
		c.complete(s)
		return
	}
	off := c.cdq(12)
	if row.id == logANA {
		// Hosts take its size to be what NANAGRPID and MNAN would allow, and
		// read all of that in pieces.
		off = min(off, uint64(len(p)))
	}
	if off > uint64(len(p)) {
		c.complete(InvalidField | DNR)
		return
	}
	var events []*Command
	if row.event != eventKinds && !keep {
		ctrl.mu.Lock()
		switch row.event {
		case eventNamespace:
			ctrl.mu.events.clearChanged()
		case eventReservation:
			if e := &ctrl.mu.events; len(e.reservations) > 0 {
				e.reservations = slices.Delete(e.reservations, 0, 1)
				e.pending[eventReservation] = len(e.reservations) > 0
			}
		}
		events = ctrl.readLocked(row.event)
		ctrl.mu.Unlock()
	}
	c.reply(p[off:])
	completeAll(events)
}

func supportedPage(_ *Command, ctrl *Controller) ([]byte, Status) {
	p := make([]byte, 1024)
	for id, row := range logTable {
		if row.on(ctrl) {
			binary.LittleEndian.PutUint32(p[4*id:], 1)
		}
	}
	return p, Success
}

func errorPage(_ *Command, ctrl *Controller) ([]byte, Status) {
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	return ctrl.mu.errors.page(), Success
}

// smartPage is the SMART / Health Information log page (NVMe Base 2.0
// §5.16.1.3). It is for the subsystem; blockd wears nothing out and measures
// no temperature. Available spare is the space that thin volumes can still take.
func smartPage(c *Command, ctrl *Controller) ([]byte, Status) {
	if nsid := c.NSID(); nsid != 0 && nsid != NSIDAll {
		return nil, InvalidField | DNR // LPA says: not by namespace
	}
	le := binary.LittleEndian
	p := make([]byte, 512)
	spare := ctrl.sub.spare.Load()
	if spare.low() {
		p[0] = 1 // critical warning: available spare is below the threshold
	}
	p[3], p[4] = spare.percent, spare.threshold
	st := ctrl.sub.Stats()
	units := func(bytes uint64) uint64 { return (bytes + 511999) / 512000 }
	le.PutUint64(p[32:], units(st.ReadBytes))
	le.PutUint64(p[48:], units(st.WriteBytes))
	le.PutUint64(p[64:], st.ReadCommands)
	le.PutUint64(p[80:], st.WriteCommands)
	ctrl.mu.Lock()
	le.PutUint64(p[176:], ctrl.mu.errors.count)
	ctrl.mu.Unlock()
	return p, Success
}

func firmwarePage(_ *Command, ctrl *Controller) ([]byte, Status) {
	p := make([]byte, 512)
	p[0] = 1 // slot 1 is active
	pad(p[8:16], ctrl.sub.conf.Load().Firmware)
	return p, Success
}

func changedPage(_ *Command, ctrl *Controller) ([]byte, Status) {
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	return ctrl.mu.events.changedList(), Success
}

// effectsPage lists the tables that dispatch commands (NVMe Base 2.0
// §5.16.1.6).
func effectsPage(c *Command, ctrl *Controller) ([]byte, Status) {
	if csi := c.SQE[59]; csi != csiNVM {
		return nil, InvalidField | DNR
	}
	p := make([]byte, 4096)
	view := ctrl.view.Load()
	for op := range 256 {
		if e := adminTable[op]; e != nil {
			binary.LittleEndian.PutUint32(p[4*op:], e.effects|effectSupported)
		}
		if e := ioTable[op]; e.on(view) {
			binary.LittleEndian.PutUint32(p[1024+4*op:], e.effects|effectSupported)
		}
	}
	return p, Success
}

// anaPage is the Asymmetric Namespace Access log page (NVMe Base 2.0
// §5.16.1.13). With RGO (bit 0 of LSP) it leaves the NSIDs out.
func anaPage(c *Command, ctrl *Controller) ([]byte, Status) {
	le := binary.LittleEndian
	conf := ctrl.sub.conf.Load()
	groupsOnly := c.SQE[41]&1 != 0
	members := make(map[uint32][]uint32)
	for _, a := range ctrl.view.Load().list {
		g := a.group()
		members[g] = append(members[g], a.nsid)
	}
	changes := conf.anaChanges + ctrl.moves.Load()
	p := make([]byte, 16)
	le.PutUint64(p, changes)
	groups := 0
	for _, g := range conf.anaGroups {
		nsids := members[g]
		if len(nsids) == 0 {
			continue // a host has no use for groups it has nothing in
		}
		groups++
		d := make([]byte, 32)
		le.PutUint32(d, g)
		if !groupsOnly {
			le.PutUint32(d[4:], uint32(len(nsids)))
		}
		le.PutUint64(d[8:], changes)
		d[16] = uint8(conf.anaState(g, ctrl.port))
		if !groupsOnly {
			for _, n := range nsids {
				d = le.AppendUint32(d, n)
			}
		}
		p = append(p, d...)
	}
	le.PutUint16(p[8:], uint16(groups))
	return p, Success
}

// featuresPage is the Feature Identifiers Supported and Effects log page (NVMe
// Base 2.0 §5.16.1.19).
func featuresPage(_ *Command, ctrl *Controller) ([]byte, Status) {
	p := make([]byte, 1024)
	for i := range featureList {
		f := &featureList[i]
		if ctrl.discovery && !f.discovery || f.offered != nil && !f.offered(ctrl.sub) {
			continue
		}
		bits := effectSupported | scopeController
		if f.namespace {
			bits = effectSupported | scopeNamespace
		}
		binary.LittleEndian.PutUint32(p[4*int(f.id):], bits)
	}
	return p, Success
}

func discoveryLog(_ *Command, ctrl *Controller) ([]byte, Status) {
	return ctrl.sub.conf.Load().discoveryPage(ctrl.hostNQN), Success
}

func reservationPage(_ *Command, ctrl *Controller) ([]byte, Status) {
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	return ctrl.mu.events.reservationPage(), Success
}
