package nvme

import (
	"cmp"
	"encoding/binary"
	"slices"

	"blockd.dev/blockdev"
	"blockd.dev/target/identity"
)

// Controller or Namespace Structure values of Identify (NVMe Base 2.0 figure
// "Identify - CNS Values").
const (
	cnsNamespace         uint8 = 0x00
	cnsController        uint8 = 0x01
	cnsActiveList        uint8 = 0x02
	cnsDescriptors       uint8 = 0x03
	cnsNamespaceCSI      uint8 = 0x05
	cnsControllerCSI     uint8 = 0x06
	cnsActiveListCSI     uint8 = 0x07
	cnsNamespaceAny      uint8 = 0x08
	cnsCommandSets       uint8 = 0x1c
	identifyBytes              = 4096
	csiNVM               uint8 = 0
	activeListMax              = identifyBytes / 4
	controllerTypeIO           = 1
	controllerTypeDisc         = 2
	crdt100ms                  = 2 // CRDT1: 200 ms
	anaTransitionSeconds       = 10
)

// identifyRows say which data structure each CNS gives. build fills p, which
// is zeroed.
var identifyRows = map[uint8]struct {
	discovery bool
	build     func(c *Command, p []byte) Status
}{
	cnsNamespace:     {build: identifyNamespace},
	cnsController:    {discovery: true, build: identifyController},
	cnsActiveList:    {build: identifyActive},
	cnsDescriptors:   {build: identifyDescriptors},
	cnsNamespaceCSI:  {build: identifyNamespaceCSI},
	cnsControllerCSI: {build: identifyControllerCSI},
	cnsActiveListCSI: {build: identifyActive},
	cnsNamespaceAny:  {build: identifyNamespaceAny},
	cnsCommandSets:   {build: identifyCommandSets},
}

func prepareIdentify(c *Command) Status {
	row, ok := identifyRows[c.SQE[40]]
	if !ok || c.state.queue.ctrl.discovery && !row.discovery {
		return InvalidField | DNR
	}
	return c.paramIn(identifyBytes)
}

// identify gives a data structure of 4096 bytes (NVMe Base 2.0 §5.17).
func identify(c *Command) {
	p := make([]byte, identifyBytes)
	if s := identifyRows[c.SQE[40]].build(c, p); s != Success {
		c.complete(s)
		return
	}
	c.reply(p)
}

// namespaceFor finds the namespace of NSID. It may be nil with Success: an
// inactive NSID has a data structure of zeroes.
func (c *Command) namespaceFor() (*attachment, Status) {
	nsid := c.NSID()
	if nsid == 0 || nsid > NSIDMax {
		return nil, InvalidNamespace | DNR
	}
	return c.state.queue.ctrl.view.Load().at(nsid), Success
}

// csi is the Command Set Identifier, bits 31:24 of Dword 11.
func (c *Command) csi() uint8 { return c.SQE[47] }

func identifyNamespace(c *Command, p []byte) Status {
	a, s := c.namespaceFor()
	if a != nil {
		a.identify(p)
	}
	return s
}

// What all namespaces have in common.
const (
	nmicShared = 1
	// rescap: PTPL, the six types, and IEKEY as NVMe 1.3 defines it.
	rescap = 0xff
	// dlfeat: deallocated blocks read as zeroes (001b), Write Zeroes has DEAC.
	dlfeat          = 0x09
	nsfeatThin      = 1 << 0
	nsfeatAtomic    = 1 << 1
	nsfeatOptimal   = 1 << 4
	nsattrProtected = 1
)

// identify fills the Identify Namespace data structure (NVM Command Set 1.0
// §4.1.5.1).
func (a *attachment) identify(p []byte) {
	le, ns := binary.LittleEndian, a.ns
	g := ns.device.Geometry()
	blocks := uint64(g.SizeBytes) >> ns.shift
	used := blocks
	p[24] = nsfeatOptimal | nsfeatAtomic
	if pr, ok := ns.device.(blockdev.Provisioner); ok && g.Thin {
		b, _ := pr.Provisioning()
		used = min(blocks, uint64(max(b, 0)+1<<ns.shift-1)>>ns.shift)
		p[24] |= nsfeatThin
	}
	le.PutUint64(p[0:], blocks)
	le.PutUint64(p[8:], blocks)
	le.PutUint64(p[16:], used)
	p[30] = nmicShared
	p[31] = rescap
	p[33] = dlfeat
	atomic := uint16(ns.atomicBlocks() - 1)
	le.PutUint16(p[34:], atomic) // NAWUN
	le.PutUint16(p[36:], atomic) // NAWUPF
	le.PutUint16(p[38:], fusedMaxBlocks-1)
	le.PutUint64(p[48:], uint64(g.SizeBytes)) // NVMCAP
	inBlocks := func(bytes int) uint16 { return uint16(min(max(bytes>>ns.shift, 1), 1<<16) - 1) }
	le.PutUint16(p[64:], inBlocks(g.PhysicalBlockSize))
	le.PutUint16(p[66:], inBlocks(g.PhysicalBlockSize))
	le.PutUint16(p[68:], inBlocks(g.UnmapGranularity))
	le.PutUint16(p[70:], inBlocks(g.UnmapGranularity))
	le.PutUint16(p[72:], inBlocks(g.OptimalIOBytes))
	le.PutUint16(p[74:], copyRangeBlocks)
	le.PutUint32(p[76:], copyRangeBlocks*copyRanges)
	p[80] = copyRanges - 1
	le.PutUint32(p[92:], a.group())
	if ns.readOnly() {
		p[99] = nsattrProtected
	}
	nguid := identity.NGUID(ns.id)
	copy(p[104:], nguid[:])
	p[130] = ns.shift // LBAF0.LBADS
}

// atomicWriter is implemented by devices that write more than one logical
// block atomically, with respect to other requests and to power cuts. The
// number of bytes is a power of two and does not change.
type atomicWriter interface{ AtomicWriteBytes() int }

// atomicBlocks is how many blocks a write changes all or none of.
func (ns *namespace) atomicBlocks() int {
	if a, ok := ns.device.(atomicWriter); ok {
		return max(min(a.AtomicWriteBytes(), MaxTransferBytes)>>ns.shift, 1)
	}
	return 1
}

// oncs lists the optional commands that a controller which sees v has (ONCS), and
// Save and Select of features.
func oncs(v *nsView) uint16 {
	bits := uint16(1 << 4)
	for op, bit := range map[uint8]uint16{
		OpCompare: 1 << 0, OpWriteUncorrectable: 1 << 1, OpDatasetManagement: 1 << 2, OpWriteZeroes: 1 << 3,
		OpReservationRegister: 1 << 5, OpVerify: 1 << 7, OpCopy: 1 << 8,
	} {
		if ioTable[op].on(v) {
			bits |= bit
		}
	}
	return bits
}

// identifyController fills the Identify Controller data structure (NVMe Base
// 2.0 §5.17.2.1).
func identifyController(c *Command, p []byte) Status {
	le := binary.LittleEndian
	ctrl := c.state.queue.ctrl
	conf := ctrl.sub.conf.Load()
	pad(p[4:24], conf.Serial)
	pad(p[24:64], conf.Model)
	pad(p[64:72], conf.Firmware)
	p[77] = mdtsShift - 12
	le.PutUint16(p[78:], ctrl.id)
	le.PutUint32(p[80:], version)
	le.PutUint32(p[92:], eventConfig(ctrl.discovery)) // OAES
	le.PutUint32(p[96:], 1|1<<6)                      // CTRATT: 128-bit host id, traffic-based keep-alive
	p[258] = 3                                        // ACL: 4 aborts
	p[259] = eventSlots - 1
	p[260] = 1 | 1<<1 // FRMW: one slot, read only
	p[262] = errorEntries - 1
	le.PutUint16(p[320:], kasMillis/100)
	le.PutUint16(p[514:], uint16(conf.MaxQueueEntries))
	// SGLS: dword granularity is not needed (01b), keyed and others not; bit 20
	// says that the address is an offset.
	le.PutUint32(p[536:], 1|1<<20)
	le.PutUint32(p[1796:], 1) // IORCSZ: 16 bytes
	p[1803] = 1               // MSDBD: one descriptor
	if ctrl.discovery {
		p[111] = controllerTypeDisc
		p[261] = lpaExtended | lpaSupported
		le.PutUint32(p[1792:], 4)
		copy(p[768:], DiscoveryNQN)
		return Success
	}
	p[76] = 1 | 1<<1 | 1<<3 // CMIC: ports, controllers, ANA
	p[111] = controllerTypeIO
	le.PutUint16(p[128:], crdt100ms)
	p[261] = lpaEffects | lpaExtended | lpaSupported
	p[342] = anaTransitionSeconds
	p[343] = 0x1f | 1<<7 // ANACAP: all states, groups are not 0
	groups := conf.anaGroups
	last := uint32(1)
	if len(groups) > 0 {
		last = groups[len(groups)-1]
	}
	le.PutUint32(p[344:], last)                        // ANAGRPMAX
	le.PutUint32(p[348:], uint32(max(len(groups), 1))) // NANAGRPID
	p[512], p[513] = 0x66, 0x44                        // SQES, CQES
	le.PutUint32(p[516:], NSIDMax)                     // NN
	le.PutUint16(p[520:], oncs(ctrl.view.Load()))
	le.PutUint16(p[522:], 1) // FUSES: Compare and Write
	p[525] = 3 << 1          // VWC: Flush takes NSID FFFFFFFFh
	if conf.writeCache() {
		p[525] |= 1
	}
	if ctrl.sub.deps.Protect != nil {
		p[531] = 7 // NWPC: all four states
	}
	le.PutUint16(p[532:], fusedMaxBlocks-1) // ACWU
	le.PutUint16(p[534:], 1)                // OCFS: format 0
	le.PutUint32(p[540:], NSIDMax)          // MNAN
	copy(p[768:], conf.NQN)
	le.PutUint32(p[1792:], ioCapsule/16) // IOCCSZ
	return Success
}

// ioCapsule is the size of a command capsule on an I/O queue in bytes: the
// entry and InCapsuleBytes.
const ioCapsule = 64 + InCapsuleBytes

// InCapsuleBytes is how much data the host may put behind an entry on an I/O
// queue. (On the admin queue TCP allows 8 KiB by itself.)
const InCapsuleBytes = 8 << 10

// identifyActive lists active NSIDs above NSID. For CNS 07h they are those of
// one command set, and there is one.
func identifyActive(c *Command, p []byte) Status {
	from := c.NSID()
	if from >= 0xfffffffe {
		return InvalidNamespace | DNR
	}
	if c.SQE[40] == cnsActiveListCSI && c.csi() != csiNVM {
		return InvalidField | DNR
	}
	list := c.state.queue.ctrl.view.Load().list
	i, _ := slices.BinarySearchFunc(list, from+1, func(a *attachment, nsid uint32) int { return cmp.Compare(a.nsid, nsid) })
	for n, a := range list[i:min(len(list), i+activeListMax)] {
		binary.LittleEndian.PutUint32(p[4*n:], a.nsid)
	}
	return Success
}

// Namespace Identification Descriptor types (NVMe Base 2.0 figure "Identify -
// Namespace Identification Descriptor").
const (
	nidNGUID = 2
	nidUUID  = 3
	nidCSI   = 4
)

func identifyDescriptors(c *Command, p []byte) Status {
	a, s := c.namespaceFor()
	if s != Success {
		return s
	}
	if a == nil {
		return InvalidNamespace | DNR
	}
	put := func(kind uint8, v []byte) {
		p[0], p[1] = kind, uint8(len(v))
		p = p[4+copy(p[4:], v):]
	}
	nguid, uuid := identity.NGUID(a.ns.id), identity.UUID(a.ns.id)
	put(nidNGUID, nguid[:])
	put(nidUUID, uuid[:])
	put(nidCSI, []byte{csiNVM})
	return Success
}

// identifyNamespaceCSI is all zeroes for the NVM command set: no storage tag,
// no protection information (NVM Command Set 1.0 §4.1.5.3).
func identifyNamespaceCSI(c *Command, _ []byte) Status {
	if c.csi() != csiNVM {
		return InvalidField | DNR
	}
	_, s := c.namespaceFor()
	return s
}

// identifyControllerCSI has the limits of commands that move no data: none
// for Verify, Write Zeroes and Dataset Management beyond what their fields can
// say (NVM Command Set 1.0 §4.1.5.4).
func identifyControllerCSI(c *Command, _ []byte) Status {
	if c.csi() != csiNVM {
		return InvalidField | DNR
	}
	return Success
}

// identifyNamespaceAny is the part of Identify Namespace that does not hang on
// the command set (NVMe Base 2.0 §5.17.2.8).
func identifyNamespaceAny(c *Command, p []byte) Status {
	a, s := c.namespaceFor()
	if a == nil {
		return s
	}
	p[1] = nmicShared
	p[2] = rescap
	binary.LittleEndian.PutUint32(p[4:], a.group())
	if a.ns.readOnly() {
		p[8] = nsattrProtected
	}
	p[14] = 1 // NSTAT: ready
	return Success
}

// identifyCommandSets lists the combinations of I/O command sets: the NVM
// command set alone.
func identifyCommandSets(c *Command, p []byte) Status {
	// CNTID: FFFFh is this controller; hosts that leave the field 0 mean it too.
	if id := binary.LittleEndian.Uint16(c.SQE[42:]); id != 0 && id != 0xffff && id != c.state.queue.ctrl.id {
		return InvalidField | DNR
	}
	p[0] = 1 << csiNVM
	return Success
}
