package scsi

import (
	"encoding/binary"

	"blockd.dev/target/identity"
)

// versionDescriptors are the standards claimed (SPC-4 §6.6.2): SAM-5, SPC-4,
// SBC-3 and iSCSI, no revision named.
var versionDescriptors = [...]uint16{0x00a0, 0x0460, 0x04c0, 0x0960}

const (
	deviceTypeDisk      = 0x00
	deviceTypeWellKnown = 0x1e
	deviceTypeNone      = 0x7f // PERIPHERAL QUALIFIER 011b: nothing can be there
	versionSPC4         = 0x06
)

func prepareInquiry(t *Task) sense {
	cdb := &t.state.cdb
	if cdb[1]&1 == 0 && cdb[2] != 0 {
		return badCDBByte(2)
	}
	if cdb[1]&1 != 0 {
		if t.state.itl == nil && !t.onWellKnown() {
			return illegal(ascLUNotSupported)
		}
		if vpdPage(cdb[2]) == nil || t.onWellKnown() && cdb[2] != 0 && cdb[2] != 0x83 {
			return badCDBByte(2)
		}
	}
	return t.wantIn(uint32(be16(cdb[3:])))
}

func (t *Task) deviceType() byte {
	switch {
	case t.onWellKnown():
		return deviceTypeWellKnown
	case t.state.itl == nil:
		return deviceTypeNone
	}
	return deviceTypeDisk
}

func inquiry(t *Task) {
	st := &t.state
	if st.cdb[1]&1 == 0 {
		t.reply(standardInquiry(t))
		return
	}
	p := vpdPage(st.cdb[2])(t, make([]byte, 4, 64))
	p[0], p[1] = t.deviceType(), st.cdb[2]
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)-4))
	t.reply(p)
}

// standardInquiry is SPC-4 §6.6.2.
func standardInquiry(t *Task) []byte {
	conf := t.state.nexus.target.conf.Load()
	b := make([]byte, 96)
	b[0] = t.deviceType()
	b[2] = versionSPC4
	b[3] = 0x10 | 0x02 // HISUP; RESPONSE DATA FORMAT
	b[4] = byte(len(b) - 5)
	b[5] = 0x30 | 0x08 // TPGS: implicit and explicit; 3PC
	if len(conf.Ports) > 1 {
		b[6] = 0x10 // MULTIP
	}
	b[7] = 0x02 // CMDQUE
	padCopy(b[8:16], conf.Vendor)
	padCopy(b[16:32], conf.Product)
	padCopy(b[32:36], conf.Revision)
	for i, v := range versionDescriptors {
		binary.BigEndian.PutUint16(b[58+2*i:], v)
	}
	return b
}

// padCopy fills dst with s and spaces.
func padCopy(dst []byte, s string) {
	for i := copy(dst, s); i < len(dst); i++ {
		dst[i] = ' '
	}
}

// vpdPages are the vital product data pages, in ascending order. Each appends
// to a buffer that has room for the four-byte header.
var vpdPages = [...]struct {
	code byte
	fill func(*Task, []byte) []byte
}{
	{0x00, nil}, // vpdSupported; set in init, it refers to this list
	{0x80, vpdSerial},
	{0x83, vpdIdentification},
	{0x86, vpdExtended},
	{0x87, vpdModePolicy},
	{0xb0, vpdBlockLimits},
	{0xb1, vpdCharacteristics},
	{0xb2, vpdProvisioning},
}

func init() { vpdPages[0].fill = vpdSupported }

func vpdPage(code byte) func(*Task, []byte) []byte {
	for i := range vpdPages {
		if vpdPages[i].code == code {
			return vpdPages[i].fill
		}
	}
	return nil
}

func vpdSupported(t *Task, b []byte) []byte {
	if t.onWellKnown() {
		return append(b, 0x00, 0x83)
	}
	for i := range vpdPages {
		b = append(b, vpdPages[i].code)
	}
	return b
}

func (lu *LU) serial() string {
	if s := lu.conf.Load().Serial; s != "" {
		return s
	}
	return identity.Serial(lu.id)
}

func vpdSerial(t *Task, b []byte) []byte { return append(b, t.state.itl.lu.serial()...) }

// The fields of a designation descriptor (SPC-4 §7.8.6.1).
const (
	codeBinary = 1
	codeASCII  = 2
	codeUTF8   = 3

	assocUnit   = 0 << 4
	assocPort   = 1 << 4
	assocTarget = 2 << 4

	designatorT10    = 0x1
	designatorNAA    = 0x3
	designatorPort   = 0x4
	designatorGroup  = 0x5
	designatorName   = 0x8
	designatorUUID   = 0xa
	designatorPIV    = 0x80
	designatorISCSI  = protocolISCSI << 4
	designatorHeader = 4
)

func designator(b []byte, b0, b1 byte, value []byte) []byte {
	b = append(b, b0, b1, 0, byte(len(value)))
	return append(b, value...)
}

// nameString is a SCSI name string: UTF-8, ended by a null, padded to four.
func nameString(s string) []byte {
	b := append([]byte(s), 0)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// vpdIdentification is page 83h: the names of the unit, of the port that was
// asked, of its group, and of the target.
func vpdIdentification(t *Task, b []byte) []byte {
	st := &t.state
	conf := st.nexus.target.conf.Load()
	if st.itl != nil {
		lu := st.itl.lu
		naa, uuid := identity.NAA(lu.id), identity.UUID(lu.id)
		b = designator(b, codeBinary, assocUnit|designatorNAA, naa[:])
		t10 := make([]byte, 8)
		padCopy(t10, conf.Vendor)
		b = designator(b, codeASCII, assocUnit|designatorT10, append(t10, lu.serial()...))
		b = designator(b, codeBinary, assocUnit|designatorUUID, append([]byte{0x10, 0}, uuid[:]...))
	}
	port := st.nexus.id.TargetPort
	b = designator(b, designatorISCSI|codeBinary, designatorPIV|assocPort|designatorPort, []byte{0, 0, byte(port >> 8), byte(port)})
	for _, p := range conf.Ports {
		if p.RelativeID != port {
			continue
		}
		b = designator(b, designatorISCSI|codeBinary, designatorPIV|assocPort|designatorGroup, []byte{0, 0, byte(p.Group >> 8), byte(p.Group)})
		if p.Name != "" {
			b = designator(b, designatorISCSI|codeUTF8, designatorPIV|assocPort|designatorName, nameString(p.Name))
		}
	}
	if conf.Name != "" {
		b = designator(b, designatorISCSI|codeUTF8, designatorPIV|assocTarget|designatorName, nameString(conf.Name))
	}
	return b
}

// vpdExtended is page 86h.
func vpdExtended(t *Task, b []byte) []byte {
	b = append(b, make([]byte, 60)...)
	b[5] = 0x07 // HEADSUP, ORDSUP, SIMPSUP
	if t.state.itl.lu.poisons() {
		b[6] = 0x08 // WU_SUP: WRITE LONG has WR_UNCOR
	}
	if t.state.itl.lu.conf.Load().WriteCache {
		b[6] |= 0x01 // V_SUP: the cache is volatile
	}
	b[13] = SenseMax
	return b
}

// vpdModePolicy is page 87h: every mode page is shared by all nexuses.
func vpdModePolicy(_ *Task, b []byte) []byte { return append(b, 0x3f, 0xff, 0, 0) }

// vpdBlockLimits is page B0h (SBC-3 §6.5.3): what limits.go enforces.
func vpdBlockLimits(t *Task, b []byte) []byte {
	lu := t.state.itl.lu
	g := lu.device.Geometry()
	b = append(b, make([]byte, 60)...)
	put := binary.BigEndian.PutUint32
	b[5] = compareMax
	binary.BigEndian.PutUint16(b[6:], uint16(min(max(g.PhysicalBlockSize>>lu.shift, 1), 0xffff)))
	put(b[8:], MaxTransferBytes>>lu.shift)
	put(b[12:], uint32(min(g.OptimalIOBytes, MaxTransferBytes)>>lu.shift))
	if lu.thin() {
		put(b[20:], 0xffffffff)
		put(b[24:], unmapDescriptorsMax)
		put(b[28:], uint32(g.UnmapGranularity>>lu.shift))
		put(b[32:], 0x80000000) // UGAVALID, alignment 0
	}
	binary.BigEndian.PutUint64(b[36:], writeSameMax)
	put(b[44:], lu.atomicBlocks())
	return b
}

// vpdCharacteristics is page B1h.
func vpdCharacteristics(t *Task, b []byte) []byte {
	b = append(b, make([]byte, 60)...)
	if !t.state.itl.lu.conf.Load().Rotational {
		b[5] = 0x01 // MEDIUM ROTATION RATE: non-rotating
	}
	return b
}

// thresholdShift is log2 of the bytes of a threshold set, the unit in which the
// provisioning log page counts.
const thresholdShift = 20 // 1 MiB

// vpdProvisioning is page B2h.
func vpdProvisioning(t *Task, b []byte) []byte {
	lu := t.state.itl.lu
	b = append(b, make([]byte, 4)...)
	if lu.thin() {
		if lu.provisioner() != nil {
			b[4] = thresholdShift - lu.shift
		}
		b[5] = 0x80 | 0x40 | 0x20 | 1<<2 // LBPU, LBPWS, LBPWS10, LBPRZ
		b[6] = 0x02                      // thin
	}
	return b
}
