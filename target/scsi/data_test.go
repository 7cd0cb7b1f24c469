package scsi

import (
	"bytes"
	"fmt"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/target/identity"
)

// What commands do to the medium, and what they leave alone.
func TestDataOnTheMedium(t *testing.T) {
	b := newBed(t)
	one, two := fill(bedBlock, 1), fill(bedBlock, 2)

	b.want("00", "2a 00 00 00 00 05 00 00 02 00", append(bytes.Clone(one), two...)...)
	if got := b.blocksAt(5, 2); !bytes.Equal(got, append(bytes.Clone(one), two...)) {
		t.Error("WRITE (10) did not write what it got")
	}
	if r := b.want("00", "28 00 00 00 00 06 00 00 01 00"); !bytes.Equal(r.data, two) {
		t.Error("READ (10) did not read what is there")
	}

	// A host that announces 700 of 1024 bytes gets one block written.
	b.want("00", "2a 00 00 00 00 08 00 00 02 00", fill(700, 9)...)
	if got := b.blocksAt(8, 2); !bytes.Equal(got, append(fill(bedBlock, 9), make([]byte, bedBlock)...)) {
		t.Error("a short WRITE must write its whole blocks only")
	}

	b.want("00", "8b 00 00 00 00 00 00 00 00 05 00 00 00 02 00 00", fill(2*bedBlock, 0x82)...)
	if got := b.blocksAt(5, 2); !bytes.Equal(got, append(fill(bedBlock, 0x83), fill(bedBlock, 0x82)...)) {
		t.Error("ORWRITE did not or")
	}

	// COMPARE AND WRITE: a difference at byte 600 of the range, then none.
	old := b.blocksAt(5, 2)
	bad := bytes.Clone(old)
	bad[600] ^= 1
	caw := "89 00 00 00 00 00 00 00 00 05 00 00 00 02 00 00"
	r := b.want("02/e/1d00", caw, append(bad, fill(2*bedBlock, 7)...)...)
	if r.sense[0] != 0xf0 || be32(r.sense[3:]) != 600 {
		t.Errorf("the information field must be the offset of the difference, 600: %x", r.sense)
	}
	if !bytes.Equal(b.blocksAt(5, 2), old) {
		t.Error("a miscompare wrote")
	}
	b.want("00", caw, append(old, fill(2*bedBlock, 7)...)...)
	if !bytes.Equal(b.blocksAt(5, 2), fill(2*bedBlock, 7)) {
		t.Error("COMPARE AND WRITE did not write")
	}

	// VERIFY: the offset of the difference, in fixed and descriptor format.
	want := b.blocksAt(4, 3)
	want[1500] ^= 0xff
	if r := b.want("02/e/1d00", "2f 02 00 00 00 04 00 00 03 00", want...); be32(r.sense[3:]) != 1500 {
		t.Errorf("VERIFY: information field of %x", r.sense)
	}
	b.want("00", "15 10 00 00 10 00", fromHex("00000000 0a0a 26 10 00 00 0000 0000 0000")...)
	if r := b.want("02/e/1d00", "2f 02 00 00 00 04 00 00 03 00", want...); r.sense[0] != 0x72 || r.sense[8] != 0 || be64(r.sense[12:]) != 1500 {
		t.Errorf("VERIFY with D_SENSE: %x", r.sense)
	}

	b.want("00", "93 00 00 00 00 00 00 00 00 10 00 00 00 10 00 00", one...)
	if !bytes.Equal(b.blocksAt(16, 16), fill(16*bedBlock, 1)) || b.blocksAt(32, 1)[0] != 0 {
		t.Error("WRITE SAME did not write its extent")
	}
	b.want("00", "42 00 00 00 00 00 00 00 28 00", fromHex("0026 0020 00000000 0000000000000010 00000008 00000000 000000000000001c 00000001 00000000")...)
	got := b.blocksAt(16, 16)
	for i := range 16 {
		want := byte(1)
		if i < 8 || i == 12 {
			want = 0
		}
		if got[i*bedBlock] != want {
			t.Errorf("after UNMAP block %d holds %d, want %d", 16+i, got[i*bedBlock], want)
		}
	}
	// UNMAP or not, what is read back is the block that was sent.
	b.want("00", "41 08 00 00 0f fe 00 00 02 00", one...)
	if !bytes.Equal(b.blocksAt(bedBlocks-2, 2), fill(2*bedBlock, 1)) {
		t.Error("WRITE SAME (10) with UNMAP lost its block")
	}
	one[0] = 7
	b.want("00", "41 00 00 00 0f fe 00 00 00 00", one...) // no length: to the end
	if b.blocksAt(bedBlocks-1, 1)[0] != 7 {
		t.Error("WRITE SAME (10) of 0 blocks did not go to the end")
	}
	b.want("00", "41 08 00 00 0f fe 00 00 00 00", one...) // frees it
	if b.blocksAt(bedBlocks-1, 1)[0] != 0 {
		t.Error("WRITE SAME (10) of 0 blocks with UNMAP did not free up to the end")
	}
}

// GET LBA STATUS tells mapped from deallocated (SBC-3 §5.5).
func TestLBAStatusFollowsTheMap(t *testing.T) {
	b := newBed(t)
	b.want("00", "2a 00 00 00 00 08 00 00 08 00", fill(8*bedBlock, 1)...)
	r := b.want("00", "9e 12 00 00 00 00 00 00 00 00 00 00 00 38 00 00")
	want := fromHex("00000034 00000000" +
		"0000000000000000 00000008 01 000000" +
		"0000000000000008 00000008 00 000000" +
		"0000000000000010 00000ff0 01 000000")
	if !bytes.Equal(r.data, want) {
		t.Errorf("got  %x\nwant %x", r.data, want)
	}
}

// Errors of the device end as the sense that a host understands.
func TestDeviceErrorsBecomeSense(t *testing.T) {
	read, write := "28 00 00 00 00 08 00 00 01 00", "2a 00 00 00 00 08 00 00 01 00"
	for _, c := range []struct{ rule, cdb, end string }{
		{"read error=medium", read, "02/3/1100"},
		{"write error=medium", write, "02/3/0c00"},
		{"write error=no-space", write, "02/7/2707"},
		{"write error=read-only", write, "02/7/2700"},
		{"read error=busy", read, "08"},
		{"read error=io", read, "02/4/4400"},
		{"read error=gone", read, "02/2/0403"},
		{"read error=fenced", read, "02/2/040b"},
		{"flush error=io", "35 00 00 00 00 00 00 00 00 00", "02/4/4400"},
		{"read error=medium", "2f 00 00 00 00 08 00 00 01 00", "02/3/1100"},
	} {
		b := newBed(t)
		if _, err := b.faults.AddText(c.rule); err != nil {
			t.Fatal(err)
		}
		r := b.want(c.end, c.cdb, fill(bedBlock, 1)...)
		if r.key == keyMediumError && c.cdb != write && (r.sense[0]&0x80 == 0 || be32(r.sense[3:]) != 8) {
			t.Errorf("%s: a medium error names the LBA, 8: %x", c.rule, r.sense)
		}
		if (r.key == keyMediumError || r.key == keyHardwareError) && len(b.events) == 0 {
			t.Errorf("%s: nobody was told", c.rule)
		}
	}
}

// A host takes the blocks before the one that INFORMATION names as done. That is
// so of a read that met an unreadable block, but of a write that failed nothing is
// known, and the sense data names no block.
func TestFailedWriteNamesNoBlock(t *testing.T) {
	b := newBed(t, func(c *TargetConfig) { c.Units[0].Device = &badMiddle{c.Units[0].Device} })
	for _, descriptors := range []bool{false, true} {
		if descriptors {
			b.want("00", "15 10 00 00 10 00", fromHex("00000000 0a0a 26 10 00 00 0000 0000 0000")...)
		}
		for cdb, end := range map[string]string{
			"28 00 00 00 00 08 00 00 08 00":                   "02/3/1100", // READ
			"2a 00 00 00 00 08 00 00 08 00":                   "02/3/0c00", // WRITE
			"2e 00 00 00 00 08 00 00 08 00":                   "02/3/0c00", // WRITE AND VERIFY
			"89 00 00 00 00 00 00 00 00 08 00 00 00 08 00 00": "02/3/0c00", // COMPARE AND WRITE
			"93 01 00 00 00 00 00 00 00 08 00 00 00 08 00 00": "02/3/0c00", // WRITE SAME of no data
		} {
			r := b.want(end, cdb, make([]byte, 16*bedBlock)...)
			named := r.sense[0]&0x80 != 0 && be32(r.sense[3:]) == 12
			none := r.sense[0]&0x80 == 0 && be32(r.sense[3:]) == 0
			if descriptors {
				named = len(r.sense) >= 20 && r.sense[8] == 0 && be64(r.sense[12:]) == 12
				none = r.sense[7] == 0
			}
			if reads := cdb[:2] == "28"; reads && !named || !reads && !none {
				t.Errorf("%s: %x", cdb, r.sense)
			}
		}
	}
}

// badMiddle is a device whose requests end at a bad block in their middle.
type badMiddle struct{ blockdev.Device }

func (d *badMiddle) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		blockdev.Complete(r, blockdev.NewError(blockdev.ErrMedium, r, r.Offset+r.Length/2, nil))
	}
}

// A read-only device and SWP refuse every command that writes, and MODE SENSE
// says so (SBC-3 §6.4.1).
func TestWriteProtection(t *testing.T) {
	for name, protect := range map[string]func(*bed) string{
		"device": func(b *bed) string { b.ram.SetReadOnly(true); return "02/7/2700" },
		"SWP": func(b *bed) string {
			b.want("00", "15 10 00 00 10 00", fromHex("00000000 0a0a 22 10 08 00 0000 0000 0000")...)
			return "02/7/2702"
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			end := protect(b)
			for _, i := range b.nexus.itls() {
				i.ua.drop(^attention(0))
			}
			block := fill(2*bedBlock, 1)
			for _, cdb := range []string{
				"0a 00 00 00 01 00", "2a 00 00 00 00 00 00 00 01 00", "aa 00 00 00 00 00 00 00 00 01 00 00",
				"8a 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00", "2e 00 00 00 00 00 00 00 01 00",
				"89 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00", "8b 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00",
				"41 00 00 00 00 00 00 00 01 00", "93 01 00 00 00 00 00 00 00 00 00 00 00 01 00 00", "42 00 00 00 00 00 00 00 00 00",
			} {
				b.want(end, cdb, block...)
			}
			b.want("00", "28 00 00 00 00 00 00 00 01 00")
			if r := b.want("00", "1a 00 3f 00 ff 00"); r.data[2]&0x80 == 0 {
				t.Error("MODE SENSE does not say WP")
			}
		})
	}
}

// copyList is an EXTENDED COPY parameter list from the unit to itself.
func copyList(listID byte, usage byte, from, to uint64, blocks uint16) []byte {
	naa := identity.NAA(bedUnit)
	p := make([]byte, 16, 128)
	p[0], p[1] = listID, usage<<3
	p[3], p[11] = copyTargetBytes, copySegmentBytes
	d := make([]byte, copyTargetBytes)
	d[0], d[4], d[5], d[7] = copyTypeIdentification, codeBinary, designatorNAA, 16
	copy(d[8:], naa[:])
	d[30] = bedBlock >> 8
	p = append(p, d...)
	s := []byte{copyTypeBlockToBlock, 0, 0, 24, 0, 0, 0, 0, 0, 0, byte(blocks >> 8), byte(blocks)}
	return append(append(append(p, s...), u64(from)...), u64(to)...)
}

// EXTENDED COPY copies, holds its result under the list identifier, and says
// COPY ABORTED with the segment when it can't (SPC-4 §6.4).
func TestExtendedCopy(t *testing.T) {
	b := newBed(t)
	b.want("00", "2a 00 00 00 00 00 00 00 04 00", fill(4*bedBlock, 5)...)
	cdb := func(p []byte) string {
		return fmt.Sprintf("83 00 00 00 00 00 00 00 00 00 %x 00 00", u32(uint32(len(p))))
	}
	p := copyList(3, 0, 0, 100, 4)
	b.want("00", cdb(p), p...)
	if !bytes.Equal(b.blocksAt(100, 4), fill(4*bedBlock, 5)) {
		t.Error("nothing was copied")
	}
	if r := b.want("00", "84 00 03 00 00 00 00 00 00 00 00 00 00 ff 00 00"); !bytes.Equal(r.data, fromHex("00000008 01 0001 00 00000800")) {
		t.Errorf("copy status: %x", r.data)
	}
	p = copyList(4, 0, 0, bedBlocks-1, 4)
	b.want("02/a/0000", cdb(p), p...)
	if r := b.want("00", "84 04 04 00 00 00 00 00 00 00 00 00 00 ff 00 00"); len(r.data) < 60+fixedSenseLen || r.data[56] != byte(StatusCheckCondition) {
		t.Errorf("failure details: %x", r.data)
	}
	p = copyList(0, 3, 0, 100, 4)
	b.want("00", cdb(p), p...)
	p[len(p)-24-4+7] = 1 // a destination that is not in the list
	b.want("02/a/0d02", cdb(p), p...)
	p = copyList(5, 2, 0, 100, 4)
	b.want("02/5/1a00", cdb(p), p[:len(p)-1]...)
	if _, err := b.faults.AddText("read error=medium"); err != nil {
		t.Fatal(err)
	}
	b.want("02/a/0d01", cdb(p), p...)
}

// Changes of the device and of the configuration reach hosts as unit
// attentions, once each, and not before INQUIRY, REPORT LUNS or REQUEST SENSE.
func TestUnitAttentions(t *testing.T) {
	b := newBed(t)
	other := b.attach("iqn.host-b")
	tur := "00 00 00 00 00 00"
	if err := b.ram.Resize(2 * bedBlocks * bedBlock); err != nil {
		t.Fatal(err)
	}
	b.want("00", "12 00 00 00 60 00")
	b.want("02/6/2a09", tur)
	b.want("00", tur)

	b.want("00", "15 10 00 00 10 00", fromHex("00000000 0a0a 26 10 00 00 0000 0000 0000")...)
	b.want("00", tur)
	for _, want := range []string{"02/6/2a09", "02/6/2a01", "00"} {
		if r := b.start(other, 0, AttrSimple, fromHex(tur), nil).wait(); r.String() != want {
			t.Errorf("the other host: got %v, want %s", r, want)
		}
	}

	cfg := b.config()
	cfg.Product = "renamed"
	cfg.AnyView = View{0: bedUnit, 300: bedUnit}
	if err := b.target.Configure(cfg); err != nil {
		t.Fatal(err)
	}
	b.want("02/6/3f0e", tur)
	b.want("02/6/3f03", tur)
	b.want("00", tur)
	if r := b.want("00", "a0 00 00 00 00 00 00 00 01 00 00 00"); !bytes.Equal(r.data[8:], fromHex("0000000000000000 412c000000000000")) {
		t.Errorf("LUNs: %x", r.data)
	}

	b.want("00", "a4 0a 00 00 00 00 00 00 00 08 00 00", fromHex("00000000 02 00 0001")...)
	if err := b.target.Configure(cfg); err != nil { // says nothing new about the group
		t.Fatal(err)
	}
	b.want("02/2/040b", tur)
	b.want("02/2/040b", "28 00 00 00 00 00 00 00 01 00")
	b.want("00", "a4 0a 00 00 00 00 00 00 00 08 00 00", fromHex("00000000 00 00 0001")...)
	b.want("00", tur)
	if r := b.want("00", "a3 0a 00 00 00 00 00 00 01 00 00 00"); !bytes.Equal(r.data, fromHex("0000000c 00 8f 0001 00 01 00 01 00000001")) {
		t.Errorf("port groups: %x", r.data)
	}

	b.nexus.Detach()
	b.nexus = b.target.Attach(b.nexus.ID())
	b.want("02/6/2907", tur)
	b.want("00", "1b 00 00 00 00 00")
	b.want("02/2/0402", tur)
	b.want("00", "1b 00 00 00 01 00")
	b.want("00", tur)
	if r := b.start(b.target.Attach(NexusID{InitiatorName: "iqn.new"}), 0, AttrSimple, fromHex("03 00 00 00 12 00"), nil).wait(); be16(r.data[12:]) != 0x2900 {
		t.Errorf("a new nexus is greeted with %x", r.data)
	}
}

// A view of its own hides nothing of AnyView but what it redefines, and a unit
// that goes takes its commands with it.
func TestViews(t *testing.T) {
	b := newBed(t)
	cfg := b.config()
	cfg.AnyView = nil
	cfg.Views = map[string]View{"iqn.host-b": {5: bedUnit}}
	if err := b.target.Configure(cfg); err != nil {
		t.Fatal(err)
	}
	b.want("02/5/2500", "00 00 00 00 00 00")
	n := b.attach("iqn.host-b")
	if r := b.start(n, 5<<48, AttrSimple, fromHex("00 00 00 00 00 00"), nil).wait(); r.String() != "00" {
		t.Errorf("LUN 5 of host b: %v", r)
	}
	for name, change := range map[string]func(*TargetConfig){
		"unit twice":     func(c *TargetConfig) { c.Units = append(c.Units, c.Units[0]) },
		"unknown unit":   func(c *TargetConfig) { c.AnyView = View{0: {77}} },
		"LUN too large":  func(c *TargetConfig) { c.AnyView = View{LUNMax + 1: bedUnit} },
		"no device":      func(c *TargetConfig) { c.Units[0].Device = nil },
		"port 0":         func(c *TargetConfig) { c.Ports = []PortConfig{{}} },
		"vendor":         func(c *TargetConfig) { c.Vendor = "a vendor of note" },
		"state":          func(c *TargetConfig) { c.Groups = []GroupConfig{{State: 0x9}} },
		"not one device": func(c *TargetConfig) { c.Units[0].Serial = "\x01" },
	} {
		c := b.config()
		change(&c)
		if b.target.Configure(c) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

var _ blockdev.Device = (*atomicDevice)(nil)

// atomicDevice promises atomic writes of 8 blocks.
type atomicDevice struct{ blockdev.Device }

func (atomicDevice) AtomicWriteBytes() int { return 8 * bedBlock }

// WRITE ATOMIC (16) is there for devices that promise it, up to what VPD page
// B0h says.
func TestWriteAtomic(t *testing.T) {
	b := newBed(t, func(c *TargetConfig) { c.Units[0].Device = atomicDevice{c.Units[0].Device} })
	if vpd := b.want("00", "12 01 b0 00 ff 00").data; be32(vpd[44:]) != 8 {
		t.Errorf("maximum atomic transfer length is %d", be32(vpd[44:]))
	}
	b.want("00", "9c 00 00 00 00 00 00 00 00 00 00 00 00 08 00 00", fill(8*bedBlock, 1)...)
	b.want("02/5/2400", "9c 00 00 00 00 00 00 00 00 00 00 00 00 09 00 00", fill(9*bedBlock, 1)...)
	if !bytes.Equal(b.blocksAt(0, 9), append(fill(8*bedBlock, 1), make([]byte, bedBlock)...)) {
		t.Error("WRITE ATOMIC did not write")
	}
}

// fuaDevice remembers whether the last write had FUA, and counts flushes.
type fuaDevice struct {
	blockdev.Device
	fua     bool
	flushes int
}

func (d *fuaDevice) Submit(batch []*blockdev.Request) {
	for _, r := range batch {
		switch r.Op {
		case blockdev.OpRead:
		case blockdev.OpFlush:
			d.flushes++
		default:
			d.fua = r.FUA
		}
	}
	d.Device.Submit(batch)
}

// With WCE=0 whatever changes the medium is durable before its status; with
// WCE=1 FUA asks for it, a FUA read flushes first, and switching the cache off
// flushes (SBC-3 §6.4.5).
func TestWriteCacheEnable(t *testing.T) {
	dev := &fuaDevice{}
	b := newBed(t, func(c *TargetConfig) {
		dev.Device = c.Units[0].Device
		c.Units[0].Device = dev
		c.Units[0].WriteCache = true
	})
	writes := []struct{ plain, fua string }{
		{"2a 00 00 00 00 00 00 00 01 00", "2a 08 00 00 00 00 00 00 01 00"},
		{"8b 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00", "8b 08 00 00 00 00 00 00 00 00 00 00 00 01 00 00"},
		{"41 00 00 00 00 00 00 00 01 00", ""},
		{"0a 00 00 00 01 00", ""},
	}
	check := func(cdb string, want bool) {
		t.Helper()
		if dev.fua = !want; cdb == "" {
			return
		}
		b.want("00", cdb, fill(bedBlock, 1)...)
		if dev.fua != want {
			t.Errorf("%s: FUA is %v, want %v", cdb, dev.fua, want)
		}
	}
	for _, w := range writes {
		check(w.plain, false)
		check(w.fua, true)
	}
	b.want("00", "28 08 00 00 00 00 00 00 01 00")
	if dev.flushes != 1 {
		t.Errorf("a FUA read flushed %d times, want 1", dev.flushes)
	}
	b.want("00", "15 10 00 00 18 00", append(fromHex("00000000 0812 00"), make([]byte, 17)...)...)
	if dev.flushes != 2 {
		t.Error("switching the cache off did not flush")
	}
	for _, w := range writes {
		check(w.plain, true)
		check(w.fua, true)
	}
}
