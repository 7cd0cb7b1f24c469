package nvme

import (
	"bytes"
	"strings"
	"testing"

	"blockd.dev/target/access"
	"blockd.dev/target/identity"
)

// What the Linux host insists on in Identify Controller (drivers/nvme/host:
// nvmf_validate_identify_ctrl, nvme_init_identify, nvme_mpath_init_identify).
func TestIdentifyController(t *testing.T) {
	b := newBed(t)
	p := b.host.identify(cnsController, 0)
	for _, c := range []struct {
		name      string
		got, want uint64
	}{
		{"IOCCSZ, 16 byte units", uint64(le.Uint32(p[1792:])), (64 + 8192) / 16},
		{"IORCSZ", uint64(le.Uint32(p[1796:])), 1},
		{"ICDOFF", uint64(le.Uint16(p[1800:])), 0},
		{"SGLS support", uint64(le.Uint32(p[536:]) & 3), 1},
		{"KAS, 100 ms", uint64(le.Uint16(p[320:])), 10},
		{"MAXCMD", uint64(le.Uint16(p[514:])), 1024},
		{"CNTLID", uint64(le.Uint16(p[78:])), uint64(b.host.admin.Controller().ID())},
		{"VER", uint64(le.Uint32(p[80:])), b.host.property(propVS, false)},
		{"MDTS", 4096 << p[77], MaxTransferBytes},
		{"CMIC", uint64(p[76]), 0x0b},
		{"ANACAP", uint64(p[343]), 0x9f},
		{"NANAGRPID", uint64(le.Uint32(p[348:])), 4},
		{"ANAGRPMAX", uint64(le.Uint32(p[344:])), 4},
		{"CNTRLTYPE", uint64(p[111]), 1},
		{"OAES", uint64(le.Uint32(p[92:])), 1<<8 | 1<<11},
		{"CTRATT", uint64(le.Uint32(p[96:])), 1 | 1<<6},
		{"ONCS", uint64(le.Uint16(p[520:])), 0x1bf},
		{"FUSES", uint64(le.Uint16(p[522:])), 1},
		{"VWC", uint64(p[525]), 6},
		{"SQES, CQES", uint64(le.Uint16(p[512:])), 0x4466},
		{"NWPC without a store", uint64(p[531]), 0},
		{"AERL", uint64(p[259]), 7},
		{"MSDBD", uint64(p[1803]), 1},
	} {
		if c.got != c.want {
			t.Errorf("%s is %#x, want %#x", c.name, c.got, c.want)
		}
	}
	if s := nqnField(p[768:1024]); s != bedNQN {
		t.Errorf("SUBNQN is %q", s)
	}
	if s := string(p[4:24]); s != "serial"+strings.Repeat(" ", 14) {
		t.Errorf("SN is %q", s)
	}
	// Linux switches ANA off when the log page does not fit into one transfer.
	if n := 16 + 32*le.Uint32(p[348:]) + 4*le.Uint32(p[540:]); n > MaxTransferBytes {
		t.Errorf("ANA log page of %d bytes is longer than MDTS", n)
	}
}

// NVM Command Set 1.0 §4.1.5.1 and the identity that volumes have: the same
// names as on the other protocol, shared, ANA group, deallocation reads zero.
func TestIdentifyNamespace(t *testing.T) {
	b := newBed(t)
	p := b.host.identify(cnsNamespace, 1)
	nguid := identity.NGUID(bedVolume)
	for _, c := range []struct {
		name      string
		got, want uint64
	}{
		{"NSZE", le.Uint64(p), bedBlocks}, {"NCAP", le.Uint64(p[8:]), bedBlocks},
		{"LBADS", uint64(p[130]), 9}, {"NLBAF", uint64(p[25]), 0}, {"FLBAS", uint64(p[26]), 0},
		{"NMIC", uint64(p[30]), 1}, {"RESCAP", uint64(p[31]), 0xff}, {"DLFEAT", uint64(p[33]), 9},
		{"ANAGRPID", uint64(le.Uint32(p[92:])), 1}, {"NSATTR", uint64(p[99]), 0},
		{"NACWU", uint64(le.Uint16(p[38:])), fusedMaxBlocks - 1},
		{"MSSRL", uint64(le.Uint16(p[74:])), copyRangeBlocks},
		{"MCL", uint64(le.Uint32(p[76:])), copyRangeBlocks * copyRanges}, {"MSRC", uint64(p[80]), copyRanges - 1},
	} {
		if c.got != c.want {
			t.Errorf("%s is %#x, want %#x", c.name, c.got, c.want)
		}
	}
	if used := le.Uint64(p[16:]); used != 0 {
		t.Errorf("NUSE of an empty thin volume is %d", used)
	}
	if !bytes.Equal(p[104:120], nguid[:]) {
		t.Errorf("NGUID is %x", p[104:120])
	}
	if q := b.host.identify(cnsNamespace, 2); !bytes.Equal(q, make([]byte, identifyBytes)) {
		t.Error("an inactive NSID has a data structure that is not all zeroes")
	}
	for _, nsid := range []uint32{0, NSIDMax + 1, NSIDAll} {
		b.host.wantAdmin(InvalidNamespace|DNR, sqe(OpIdentify, nsid, uint32(cnsNamespace)), nil, identifyBytes)
	}
}

// The rest of what Linux reads while it scans (nvme_identify_ns_descs,
// nvme_ns_info_from_id_cs_indep, nvme_init_non_mdts_limits).
func TestIdentifyForScan(t *testing.T) {
	b := newBed(t, func(c *Config, _ *Deps) { c.AnyView = View{1: bedVolume, 7: bedVolume, 5000: bedVolume} })
	h := b.host
	active := h.identify(cnsActiveList, 0)
	if a, b, c, d := le.Uint32(active), le.Uint32(active[4:]), le.Uint32(active[8:]), le.Uint32(active[12:]); a != 1 || b != 7 || c != 5000 || d != 0 {
		t.Errorf("active namespaces %d %d %d %d", a, b, c, d)
	}
	if n := le.Uint32(h.identify(cnsActiveList, 7)); n != 5000 {
		t.Errorf("active namespaces above 7 begin with %d", n)
	}
	if !bytes.Equal(active, h.identify(cnsActiveListCSI, 0)) {
		t.Error("the list of the NVM command set differs")
	}
	h.wantAdmin(InvalidNamespace|DNR, sqe(OpIdentify, 0xfffffffe, uint32(cnsActiveList)), nil, identifyBytes)
	d := h.identify(cnsDescriptors, 5000)
	nguid, uuid := identity.NGUID(bedVolume), identity.UUID(bedVolume)
	want := append([]byte{2, 16, 0, 0}, nguid[:]...)
	want = append(append(want, 3, 16, 0, 0), uuid[:]...)
	want = append(want, 4, 1, 0, 0, 0, 0)
	if !bytes.HasPrefix(d, want) {
		t.Errorf("descriptors %x", d[:48])
	}
	h.wantAdmin(InvalidNamespace|DNR, sqe(OpIdentify, 2, uint32(cnsDescriptors)), nil, identifyBytes)
	i := h.identify(cnsNamespaceAny, 1)
	if i[1] != 1 || i[14] != 1 || le.Uint32(i[4:]) != 1 {
		t.Errorf("NMIC %d, NSTAT %d, ANAGRPID %d", i[1], i[14], le.Uint32(i[4:]))
	}
	h.identify(cnsNamespaceCSI, 1)
	h.identify(cnsControllerCSI, 0)
	if v := le.Uint64(h.identify(cnsCommandSets, 0)); v != 1 {
		t.Errorf("command set combination %#x", v)
	}
	for _, e := range [][64]byte{
		sqe(OpIdentify, 1, uint32(cnsNamespaceCSI), 2<<24), sqe(OpIdentify, 0, uint32(cnsControllerCSI), 1<<24),
		sqe(OpIdentify, 0, uint32(cnsActiveListCSI), 1<<24), sqe(OpIdentify, 0, 0x55),
	} {
		h.wantAdmin(InvalidField|DNR, e, nil, identifyBytes)
	}
}

// Invariant 3: the log pages list what the tables dispatch, and every log page
// and feature they list can be read.
func TestAdvertisedIsWhatWorks(t *testing.T) {
	b := newBed(t, func(c *Config, d *Deps) { d.Protect = (&protectStore{}).set })
	h := b.host
	p := h.logPage(logSupported, 1024, 0, false)
	for id := range 256 {
		e := logEntry(uint8(id), 512, 0, true)
		if le.Uint32(p[4*id:])&1 != 0 {
			h.wantAdmin(Success, e, nil, 512)
		} else {
			h.wantAdmin(InvalidLogPage|DNR, e, nil, 512)
		}
	}
	p = h.logPage(logEffects, 4096, 0, false)
	for op := range 256 {
		if got, want := le.Uint32(p[4*op:])&1 != 0, adminTable[op] != nil; got != want {
			t.Errorf("admin opcode %#x: listed %v, dispatched %v", op, got, want)
		}
		if got, want := le.Uint32(p[1024+4*op:])&1 != 0, ioTable[op] != nil; got != want {
			t.Errorf("I/O opcode %#x: listed %v, dispatched %v", op, got, want)
		}
		if adminTable[op] == nil && op != int(OpFabrics) {
			h.wantAdmin(InvalidOpcode|DNR, sqe(uint8(op), 1), nil, 0)
		}
		if ioTable[op] == nil && op != int(OpFabrics) {
			h.want(InvalidOpcode|DNR, sqe(uint8(op), 1), nil, 0)
		}
	}
	p = h.logPage(logFeatures, 1024, 0, false)
	for id := range 256 {
		e := sqe(OpGetFeatures, 1, uint32(id), 1)
		n := 0
		switch uint8(id) {
		case featHostBehavior:
			n = hostBehaviorBytes
		case featHostID:
			n = hostIDBytes
		case featWriteCache: // there is none to tell of
			continue
		}
		if le.Uint32(p[4*id:])&1 != 0 {
			h.wantAdmin(Success, e, nil, n)
		} else {
			h.wantAdmin(InvalidField|DNR, e, nil, n)
		}
	}
}

// NVMe Base 2.0 §5.16: pieces by offset, zeroes behind the end, and what is
// refused.
func TestLogPageRanges(t *testing.T) {
	b := newBed(t)
	h := b.host
	whole := h.logPage(logFirmware, 512, 0, false)
	if string(whole[8:16]) != "1       " || whole[0] != 1 {
		t.Errorf("firmware slots %x", whole[:16])
	}
	if p := h.logPage(logFirmware, 8, 8, false); string(p) != "1       " {
		t.Errorf("offset 8 gives %q", p)
	}
	if p := h.logPage(logFirmware, 1024, 504, false); !bytes.Equal(p[8:], make([]byte, 1016)) {
		t.Error("data behind the end is not zero")
	}
	h.wantAdmin(InvalidField|DNR, logEntry(logFirmware, 8, 516, false), nil, 8)
	h.wantAdmin(InvalidField|DNR, logEntry(logFirmware, 8, 2, false), nil, 8)
	h.wantAdmin(InvalidField|DNR, logEntry(logFirmware, MaxTransferBytes+4, 0, false), nil, 4)
	h.wantAdmin(InvalidSGLLength|DNR, logEntry(logFirmware, 512, 0, false), nil, 256)
}

func TestErrorLogKeepsFailures(t *testing.T) {
	b := newBed(t)
	c := b.start(b.host.io, rw(OpRead, bedBlocks, 1, 0), nil, bedBlock)
	c.wait()
	p := b.host.logPage(logErrors, 128, 0, false)
	if le.Uint64(p) != 1 || le.Uint16(p[8:]) != 1 || le.Uint16(p[10:]) != c.CID() ||
		Status(le.Uint16(p[12:])>>1) != LBAOutOfRange|DNR || le.Uint64(p[16:]) != bedBlocks || le.Uint32(p[24:]) != 1 {
		t.Errorf("entry %x", p[:64])
	}
	if !bytes.Equal(p[64:], make([]byte, 64)) {
		t.Error("second entry is not empty")
	}
	if n := le.Uint64(b.host.logPage(logSMART, 512, 0, false)[176:]); n != 1 {
		t.Errorf("SMART tells of %d errors", n)
	}
}

// SMART counts survive the controllers that did the work.
func TestSMARTCounts(t *testing.T) {
	b := newBed(t)
	b.host.want(Success, rw(OpWrite, 0, 8, 0), fill(8*bedBlock, 1), 0)
	b.host.want(Success, rw(OpRead, 0, 8, 0), nil, 8*bedBlock)
	b.host.admin.Disconnect()
	h := b.connect(hostB)
	p := h.logPage(logSMART, 512, 0, false)
	if r, w := le.Uint64(p[64:]), le.Uint64(p[80:]); r != 1 || w != 1 {
		t.Errorf("%d reads, %d writes", r, w)
	}
	if st := b.sub.Stats(); st.ReadBytes != 8*bedBlock || st.WriteBytes != 8*bedBlock || st.Controllers != 1 || st.IOQueues != 1 {
		t.Errorf("stats %+v", st)
	}
}

// NVMe Base 2.0 §5.27.1.5.
func TestNumberOfQueues(t *testing.T) {
	b := newBed(t, func(c *Config, _ *Deps) { c.MaxIOQueues = 4 })
	set := func(sq, cq uint32) [64]byte { return sqe(OpSetFeatures, 0, uint32(featQueues), sq|cq<<16) }
	b.host.wantAdmin(CommandSequenceError|DNR, set(1, 1), nil, 0) // there is a queue
	b.host.io.Disconnect()
	b.host.wantAdmin(InvalidField|DNR, set(0xffff, 1), nil, 0)
	if r := b.host.wantAdmin(Success, set(7, 9), nil, 0); r.result != 3|3<<16 {
		t.Errorf("granted %#x, want 4 of each", r.result)
	}
	if r := b.host.wantAdmin(Success, set(1, 1), nil, 0); r.result != 1|1<<16 {
		t.Errorf("granted %#x, want 2 of each", r.result)
	}
	for qid, want := range map[uint16]Status{2: Success, 3: ConnectInvalidParameters | DNR} {
		r := b.request(hostA, qid)
		r.CNTLID = b.host.admin.Controller().ID()
		if _, s, _ := b.sub.Connect(r); s != want {
			t.Errorf("QID %d: %v", qid, s)
		}
	}
}

func TestFeatureRules(t *testing.T) {
	b := newBed(t)
	h := b.host
	get := func(id uint8, sel uint32) [64]byte { return sqe(OpGetFeatures, 0, uint32(id)|sel<<8) }
	h.wantAdmin(Success, sqe(OpSetFeatures, 0, uint32(featAsyncEvents), 1<<8), nil, 0)
	for sel, want := range map[uint32]uint64{selectCurrent: 1 << 8, selectDefault: 1<<8 | 1<<11, selectSaved: 1<<8 | 1<<11, selectCapabilities: capabilityChangeable} {
		if r := h.wantAdmin(Success, get(featAsyncEvents, sel), nil, 0); r.result != want {
			t.Errorf("select %d gives %#x, want %#x", sel, r.result, want)
		}
	}
	h.wantAdmin(InvalidField|DNR, get(featAsyncEvents, 4), nil, 0)
	h.wantAdmin(InvalidField|DNR, sqe(OpSetFeatures, 0, uint32(featAsyncEvents), 1<<9), nil, 0)
	h.wantAdmin(FeatureNotSaveable|DNR, sqe(OpSetFeatures, 0, uint32(featAsyncEvents)|1<<31, 0), nil, 0)
	h.wantAdmin(FeatureNotChangeable|DNR, sqe(OpSetFeatures, 1, uint32(featErrorRecovery), 0), nil, 0)
	h.wantAdmin(FeatureNotNamespace|DNR, sqe(OpSetFeatures, 1, uint32(featAsyncEvents), 0), nil, 0)
	h.wantAdmin(InvalidNamespace|DNR, sqe(OpGetFeatures, NSIDAll, uint32(featReservationMask)), nil, 0)
	h.wantAdmin(CommandSequenceError|DNR, sqe(OpSetFeatures, 0, uint32(featHostID), 1), nil, 0)
	h.wantAdmin(InvalidField|DNR, sqe(OpGetFeatures, 0, uint32(featHostID), 0), nil, 8)
	id := h.admin.Controller().HostID()
	if r := h.wantAdmin(Success, sqe(OpGetFeatures, 0, uint32(featHostID), 1), nil, 16); !bytes.Equal(r.data, id[:]) {
		t.Errorf("host id %x", r.data)
	}
	h.wantAdmin(IOCommandSetRejected|DNR, sqe(OpSetFeatures, 0, uint32(featCommandSet), 1), nil, 0)
	h.wantAdmin(InvalidField|DNR, sqe(OpSetFeatures, 0, uint32(featWriteCache), 1), nil, 0)
	h.wantAdmin(InvalidField|DNR, sqe(OpSetFeatures, 1, uint32(featWriteProtect), 1), nil, 0)
	behaviour := make([]byte, hostBehaviorBytes)
	behaviour[0] = 2
	h.wantAdmin(InvalidField|DNR, sqe(OpSetFeatures, 0, uint32(featHostBehavior)), behaviour, 0)
	behaviour[0] = 1
	h.wantAdmin(Success, sqe(OpSetFeatures, 0, uint32(featHostBehavior)), behaviour, 0)
	if r := h.wantAdmin(Success, sqe(OpGetFeatures, 0, uint32(featHostBehavior)), nil, hostBehaviorBytes); r.data[0] != 1 {
		t.Error("ACRE is not kept")
	}
	// A reset forgets (NVMe Base 2.0 §5.27.1).
	h.setProperty(propCC, 0)
	h.enable()
	if r := h.wantAdmin(Success, get(featAsyncEvents, 0), nil, 0); r.result != 1<<8|1<<11 {
		t.Errorf("after a reset: %#x", r.result)
	}
}

type protectStore struct {
	on   map[VolumeID]access.Protection
	fail error
}

func (p *protectStore) set(id VolumeID, _ string, on access.Protection) error {
	if p.fail != nil {
		return p.fail
	}
	if p.on == nil {
		p.on = map[VolumeID]access.Protection{}
	}
	p.on[id] = on
	return nil
}

// NVMe Base 2.0 §8.12: a write-protected namespace refuses writes from every
// host, without DNR since it may end, and says so in its attributes.
func TestWriteProtect(t *testing.T) {
	store := &protectStore{}
	b := newBed(t, func(_ *Config, d *Deps) { d.Protect = store.set })
	other := b.connect(hostB)
	aer := b.start(other.admin, sqe(OpAsyncEventRequest, 0), nil, 0)
	set := func(v uint32) [64]byte { return sqe(OpSetFeatures, 1, uint32(featWriteProtect), v) }
	b.host.wantAdmin(Success, set(1), nil, 0)
	if r := aer.wait(); r.result != uint64(eventDescs[eventNamespace].dword) {
		t.Errorf("the other host is told %#x", r.result)
	}
	if store.on[bedVolume] != access.Protected || other.identify(cnsNamespace, 1)[99]&1 == 0 {
		t.Error("it is not kept, or not shown")
	}
	other.want(NamespaceWriteProtected, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
	other.want(NamespaceWriteProtected, rw(OpWriteZeroes, 0, 1, 0), nil, 0)
	other.want(Success, rw(OpRead, 0, 1, 0), nil, bedBlock)
	b.host.wantAdmin(InvalidField|DNR, set(4), nil, 0)
	b.host.wantAdmin(FeatureNotChangeable|DNR, set(2), nil, 0) // for administrators
	b.host.wantAdmin(FeatureNotChangeable|DNR, set(3), nil, 0)
	b.host.wantAdmin(Success, set(0), nil, 0)
	other.want(Success, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
}

// What an administrator sets reaches hosts as a notice, reads back from the
// feature, and no host ends it.
func TestWriteProtectByTheAdministrator(t *testing.T) {
	b := newBed(t, func(_ *Config, d *Deps) { d.Protect = (&protectStore{}).set })
	h := b.host
	for _, p := range []access.Protection{access.Protected, access.UntilPowerCycle, access.Permanent} {
		x := h.aer()
		b.configure(func(c *Config) { c.Namespaces[0].Protect = p })
		x.wantEvent(eventNamespace)
		h.logPage(logChangedNamespaces, 4096, 0, false)
		if r := h.wantAdmin(Success, sqe(OpGetFeatures, 1, uint32(featWriteProtect)), nil, 0); r.result != uint64(p) {
			t.Errorf("%v reads back as %d", p, r.result)
		}
		h.want(NamespaceWriteProtected, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
		want := Success
		if p != access.Protected {
			want = FeatureNotChangeable | DNR
		}
		h.wantAdmin(want, sqe(OpSetFeatures, 1, uint32(featWriteProtect), 0), nil, 0)
	}
	b.configure(func(c *Config) { c.Namespaces[0].Protect = access.Unprotected })
	h.want(Success, rw(OpWrite, 0, 1, 0), fill(bedBlock, 1), 0)
}
