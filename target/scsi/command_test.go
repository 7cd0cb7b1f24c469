package scsi

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"testing"

	"blockd.dev/target/identity"
)

// Every CDB, as far as a single exchange shows what it does: the end of the
// command is status, or status/key/asc-ascq.
func TestCommandsEndAsTheStandardsSay(t *testing.T) {
	block := fill(bedBlock, 0xa5)
	two := fill(2*bedBlock, 0xa5)
	for _, c := range []struct {
		name, cdb string
		data      []byte
		end       string
	}{
		{"test unit ready", "00 00 00 00 00 00", nil, "00"},
		{"NACA is refused (SAM-5 §5.2)", "00 00 00 00 00 04", nil, "02/5/2400"},
		{"reserved bit is refused", "00 01 00 00 00 00", nil, "02/5/2400"},
		{"unknown opcode", "ff 00 00 00 00 00", nil, "02/5/2000"},
		{"unknown service action", "9e 1f 00 00 00 00 00 00 00 00 00 00 00 00 00 00", nil, "02/5/2400"},
		{"CDB that is too short", "28 00 00 00 00 00", nil, "02/5/2400"},

		{"read 6", "08 00 00 00 01 00", nil, "00"},
		{"read 6 of 256", "08 00 00 00 00 00", nil, "00"},
		{"read 10", "28 00 00 00 00 00 00 00 01 00", nil, "00"},
		{"read 10 of nothing", "28 00 00 00 00 00 00 00 00 00", nil, "00"},
		{"read 10 DPO FUA", "28 18 00 00 00 00 00 00 01 00", nil, "00"},
		{"read 10 RDPROTECT", "28 20 00 00 00 00 00 00 01 00", nil, "02/5/2400"},
		{"read 10 last block", "28 00 00 00 0f ff 00 00 01 00", nil, "00"},
		{"read 10 past the end", "28 00 00 00 0f ff 00 00 02 00", nil, "02/5/2100"},
		{"read 10 of nothing at the end", "28 00 00 00 10 00 00 00 00 00", nil, "02/5/2100"},
		{"read 12", "a8 00 00 00 00 00 00 00 00 01 00 00", nil, "00"},
		{"read 16", "88 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00", nil, "00"},
		{"read 16 at the top of the numbers", "88 00 ff ff ff ff ff ff ff ff 00 00 00 01 00 00", nil, "02/5/2100"},
		{"read 16 wrapping around", "88 00 ff ff ff ff ff ff ff ff ff ff ff ff 00 00", nil, "02/5/2100"},

		{"write 6", "0a 00 00 00 01 00", block, "00"},
		{"write 10", "2a 00 00 00 00 00 00 00 01 00", block, "00"},
		{"write 10 FUA", "2a 08 00 00 00 00 00 00 01 00", block, "00"},
		{"write 10 WRPROTECT", "2a e0 00 00 00 00 00 00 01 00", block, "02/5/2400"},
		{"write 10 group number", "2a 00 00 00 00 00 01 00 01 00", block, "00"},
		{"write 10 past the end", "2a 00 00 00 10 00 00 00 01 00", block, "02/5/2100"},
		{"write 10 with less data than blocks", "2a 00 00 00 00 00 00 00 02 00", block, "00"},
		{"write 12", "aa 00 00 00 00 00 00 00 00 01 00 00", block, "00"},
		{"write 16", "8a 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00", block, "00"},
		{"write atomic without an atomic device", "9c 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00", block, "02/5/2000"},
		{"write and verify 10", "2e 00 00 00 00 00 00 00 01 00", block, "00"},
		{"write and verify 10 BYTCHK", "2e 02 00 00 00 00 00 00 01 00", block, "00"},
		{"write and verify 12", "ae 02 00 00 00 00 00 00 00 01 00 00", block, "00"},
		{"write and verify 16", "8e 02 00 00 00 00 00 00 00 00 00 00 00 01 00 00", block, "00"},
		{"verify 10", "2f 00 00 00 00 00 00 10 00 00", nil, "00"},
		{"verify 10 equal", "2f 02 00 00 00 00 00 00 01 00", block, "00"},
		{"verify 10 not equal", "2f 02 00 00 00 01 00 00 01 00", block, "02/e/1d00"},
		{"verify 12", "af 02 00 00 00 00 00 00 00 01 00 00", block, "00"},
		{"verify 16", "8f 02 00 00 00 00 00 00 00 00 00 00 00 01 00 00", block, "00"},
		{"verify 16, BYTCHK 2 is reserved", "8f 04 00 00 00 00 00 00 00 00 00 00 00 01 00 00", block, "02/5/2400"},
		{"verify 16, BYTCHK 3 compares one block", "8f 06 00 00 00 00 00 00 00 00 00 00 00 02 00 00", block, "02/e/1d00"},
		{"verify past the end", "2f 00 00 00 0f ff 00 00 02 00", nil, "02/5/2100"},

		{"synchronize cache 10", "35 00 00 00 00 00 00 00 00 00", nil, "00"},
		{"synchronize cache 10 IMMED", "35 02 00 00 00 00 00 00 00 00", nil, "00"},
		{"synchronize cache 16", "91 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00", nil, "00"},
		{"synchronize cache past the end", "35 00 00 00 10 01 00 00 01 00", nil, "02/5/2100"},
		{"pre-fetch 10", "34 00 00 00 00 00 00 00 10 00", nil, "00"},
		{"pre-fetch 16 IMMED", "90 02 00 00 00 00 00 00 00 00 00 00 00 10 00 00", nil, "00"},
		{"pre-fetch past the end", "34 00 00 00 10 00 00 00 01 00", nil, "02/5/2100"},

		{"unmap nothing", "42 00 00 00 00 00 00 00 00 00", nil, "00"},
		{"unmap without descriptors", "42 00 00 00 00 00 00 00 08 00", fromHex("0006 0000 00000000"), "00"},
		{"unmap", "42 00 00 00 00 00 00 00 18 00", fromHex("0016 0010 00000000 0000000000000008 00000008 00000000"), "00"},
		{"unmap of no blocks at the end", "42 00 00 00 00 00 00 00 18 00", fromHex("0016 0010 00000000 0000000000001000 00000000 00000000"), "00"},
		{"unmap past the end", "42 00 00 00 00 00 00 00 18 00", fromHex("0016 0010 00000000 0000000000000fff 00000002 00000000"), "02/5/2100"},
		{"unmap with half a descriptor", "42 00 00 00 00 00 00 00 10 00", fromHex("000e 0008 00000000 0000000000000000"), "02/5/2600"},
		{"unmap with a short list", "42 00 00 00 00 00 00 00 04 00", fromHex("0002 0000"), "02/5/1a00"},
		{"unmap that says more than it has", "42 00 00 00 00 00 00 00 08 00", fromHex("0016 0010 00000000"), "02/5/1a00"},
		{"unmap with data that did not come", "42 00 00 00 00 00 00 00 18 00", fromHex("0016 0010"), "02/5/1a00"},
		{"unmap ANCHOR", "42 01 00 00 00 00 00 00 00 00", nil, "02/5/2400"},

		{"write same 10", "41 00 00 00 00 00 00 00 08 00", block, "00"},
		{"write same 10 of all", "41 00 00 00 00 00 00 00 00 00", block, "00"},
		{"write same 10 UNMAP", "41 08 00 00 00 00 00 00 08 00", make([]byte, bedBlock), "00"},
		{"write same 10 ANCHOR", "41 18 00 00 00 00 00 00 08 00", make([]byte, bedBlock), "02/5/2400"},
		{"write same 16 NDOB", "93 01 00 00 00 00 00 00 00 00 00 00 00 08 00 00", nil, "00"},
		{"write same 16 NDOB UNMAP", "93 09 00 00 00 00 00 00 00 00 00 00 00 08 00 00", nil, "00"},
		{"write same 16 past the end", "93 00 00 00 00 00 00 00 0f ff 00 00 00 02 00 00", block, "02/5/2100"},
		{"write same with half a block", "93 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00", block[:256], "02/5/0e03"},
		{"write same with two blocks", "93 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00", two, "02/5/0e03"},

		{"orwrite", "8b 00 00 00 00 00 00 00 00 00 00 00 00 01 00 00", block, "00"},
		{"orwrite ORPROTECT", "8b 20 00 00 00 00 00 00 00 00 00 00 00 01 00 00", block, "02/5/2400"},
		{"compare and write of nothing", "89 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00", nil, "00"},
		{"compare and write, other data", "89 00 00 00 00 00 00 00 00 10 00 00 00 01 00 00", append(fill(512, 1), fill(512, 2)...), "02/e/1d00"},
		{"compare and write past the end", "89 00 00 00 00 00 00 00 10 00 00 00 00 01 00 00", two, "02/5/2100"},
		{"compare and write with too much data", "89 00 00 00 00 00 00 00 00 10 00 00 00 01 00 00", fill(4*512, 0), "02/5/2400"},

		{"get lba status", "9e 12 00 00 00 00 00 00 00 00 00 00 00 18 00 00", nil, "00"},
		{"get lba status past the end", "9e 12 00 00 00 00 00 00 10 00 00 00 00 18 00 00", nil, "02/5/2100"},
		{"read capacity 10", "25 00 00 00 00 00 00 00 00 00", nil, "00"},
		{"read capacity 10 with an LBA and no PMI", "25 00 00 00 00 01 00 00 00 00", nil, "02/5/2400"},
		{"read capacity 16", "9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00", nil, "00"},

		{"inquiry", "12 00 00 00 60 00", nil, "00"},
		{"inquiry with a page and no EVPD", "12 00 83 00 60 00", nil, "02/5/2400"},
		{"inquiry of a page that is not there", "12 01 55 00 60 00", nil, "02/5/2400"},
		{"report luns", "a0 00 00 00 00 00 00 00 01 00 00 00", nil, "00"},
		{"report luns with no room (SPC-4 §6.33)", "a0 00 00 00 00 00 00 00 00 08 00 00", nil, "02/5/2400"},
		{"report luns of a reserved kind", "a0 00 03 00 00 00 00 00 01 00 00 00", nil, "02/5/2400"},
		{"request sense", "03 00 00 00 fc 00", nil, "00"},

		{"mode sense 6 all", "1a 00 3f 00 ff 00", nil, "00"},
		{"mode sense 6 saved", "1a 00 c8 00 ff 00", nil, "02/5/3900"},
		{"mode sense 6 unknown page", "1a 00 05 00 ff 00", nil, "02/5/2400"},
		{"mode sense 6 unknown subpage", "1a 00 08 01 ff 00", nil, "02/5/2400"},
		{"mode sense 10 all and subpages", "5a 00 3f ff 00 00 00 01 00 00", nil, "00"},
		{"mode select 6 SP", "15 11 00 00 00 00", nil, "02/5/2400"},
		{"mode select 6 nothing", "15 10 00 00 00 00", nil, "00"},
		{"mode select 6 short", "15 10 00 00 02 00", []byte{0, 0}, "02/5/1a00"},
		{"mode select 6 bit that can't change", "15 10 00 00 10 00", fromHex("00000000 0a0a 32 00 00 00 0000 0000 0000"), "02/5/2600"},
		{"mode select 6 page that is not there", "15 10 00 00 06 00", fromHex("00000000 0500"), "02/5/2600"},

		{"log sense list", "4d 00 40 00 00 00 00 00 ff 00", nil, "00"},
		{"log sense list with subpages", "4d 00 40 ff 00 00 00 00 ff 00", nil, "00"},
		{"log sense provisioning", "4d 00 4c 00 00 00 00 00 ff 00", nil, "00"},
		{"log sense temperature", "4d 00 4d 00 00 00 00 00 ff 00", nil, "00"},
		{"log sense exceptions", "4d 00 6f 00 00 00 00 00 ff 00", nil, "00"},
		{"log sense unknown page", "4d 00 5f 00 00 00 00 00 ff 00", nil, "02/5/2400"},
		{"log sense pointer above the last parameter", "4d 00 4d 00 00 00 02 00 ff 00", nil, "02/5/2400"},
		{"log select reset", "4c 02 40 00 00 00 00 00 00 00", nil, "00"},

		{"start", "1b 00 00 00 01 00", nil, "00"},
		{"eject", "1b 00 00 00 02 00", nil, "02/5/2400"},
		{"standby", "1b 00 00 00 30 00", nil, "02/5/2400"},
		{"prevent", "1e 00 00 00 01 00", nil, "00"},
		{"allow", "1e 00 00 00 00 00", nil, "00"},
		{"self-test", "1d 04 00 00 00 00", nil, "00"},
		{"receive diagnostic results", "1c 01 00 00 ff 00", nil, "00"},
		{"read defect data 10", "37 00 08 00 00 00 00 00 04 00", nil, "00"},
		{"read defect data 12", "b7 08 00 00 00 00 00 00 00 08 00 00", nil, "00"},

		{"report opcodes", "a3 0c 00 00 00 00 00 00 10 00 00 00", nil, "00"},
		{"report opcodes, reserved option", "a3 0c 04 00 00 00 00 00 10 00 00 00", nil, "02/5/2400"},
		{"report one opcode that has service actions", "a3 0c 01 9e 00 10 00 00 10 00 00 00", nil, "02/5/2400"},
		{"report a service action of an opcode without", "a3 0c 02 28 00 00 00 00 10 00 00 00", nil, "02/5/2400"},
		{"report task management", "a3 0d 00 00 00 00 00 00 00 04 00 00", nil, "00"},
		{"report target port groups", "a3 0a 00 00 00 00 00 00 01 00 00 00", nil, "00"},
		{"set target port groups, unknown group", "a4 0a 00 00 00 00 00 00 00 08 00 00", fromHex("00000000 00 00 0009"), "02/5/2600"},
		{"set target port groups, offline", "a4 0a 00 00 00 00 00 00 00 08 00 00", fromHex("00000000 0e 00 0001"), "02/5/2600"},

		{"extended copy of nothing", "83 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00", nil, "00"},
		{"extended copy, short list", "83 00 00 00 00 00 00 00 00 00 00 00 00 08 00 00", make([]byte, 8), "02/5/1a00"},
		{"copy status of an unknown list", "84 00 07 00 00 00 00 00 00 00 00 00 00 ff 00 00", nil, "02/5/2400"},
		{"copy operating parameters", "84 03 00 00 00 00 00 00 00 00 00 00 00 ff 00 00", nil, "00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t)
			b.want("00", "0a 00 00 00 01 00", block...) // what VERIFY compares with
			b.want(c.end, c.cdb, c.data...)
		})
	}
}

// What REPORT SUPPORTED OPERATION CODES advertises is what is served: every
// row is reported, alone and in the list, with its usage data; no bit outside
// the usage data is accepted; no opcode outside the list is known.
func TestReportedOpcodesAreTheOnesServed(t *testing.T) {
	b := newBed(t)
	all := b.want("00", "a3 0c 00 00 00 00 00 00 40 00 00 00").data
	listed := map[string]bool{}
	for d := all[4:]; len(d) >= 8; d = d[8:] {
		kind, service := byte(reportOpcode), d[2:4]
		if d[5]&1 != 0 {
			kind = reportService
		}
		listed[fmt.Sprintf("%02x/%d/%x", d[0], kind, service)] = true
		one := b.want("00", fmt.Sprintf("a3 0c %02x %02x %x 00 00 01 00 00 00", kind, d[0], service)).data
		if one[1]&7 != supportYes || int(be16(one[2:])) != int(d[7]) || one[4] != d[0] {
			t.Errorf("opcode %02x/%x: one command says %x", d[0], service, one)
		}
		usage := one[4 : 4+d[7]]
		for i := 1; i < len(usage); i++ {
			for bit := range 8 {
				c := lookup((*[cdbMax]byte)(append(append([]byte{usage[0], usage[1]}, make([]byte, 14)...), 0)))
				if c == nil {
					t.Fatalf("opcode %02x/%x is listed and unknown", d[0], service)
				}
				cdb := [cdbMax]byte{0: usage[0]}
				if kind == reportService {
					cdb[1] = usage[1] & 0x1f
				}
				if cdb[i]&(1<<bit) != 0 || i == 1 && kind == reportService && bit < 5 {
					continue
				}
				cdb[i] |= 1 << bit
				s := c.checkReserved(&cdb, len(usage))
				allowed := usage[i]&(1<<bit) != 0 || len(c.ignored) > 0 && fromHex(c.ignored)[i]&(1<<bit) != 0 || i == len(usage)-1 && 0xc3&(1<<bit) != 0 ||
					c.flags&flagGroup != 0 && i == groupByte(len(usage)) && bit < 6
				if s.ok() != allowed {
					t.Errorf("%s: bit %d of byte %d: accepted %v, advertised %v", c.name, bit, i, s.ok(), allowed)
				}
				if !s.ok() && (int(s.ptr) != i || s.ptrBit != uint8(bit)) {
					t.Errorf("%s: bit %d of byte %d: the field pointer says bit %d of byte %d", c.name, bit, i, s.ptrBit, s.ptr)
				}
			}
		}
	}
	offered := 0
	for _, c := range table {
		if c.supported == nil || c.supported(b.nexus.itls()[0].lu) {
			offered++
		}
	}
	if len(listed) != offered {
		t.Errorf("%d commands are listed, the table offers %d", len(listed), offered)
	}
	for op := range 256 {
		cdb := make([]byte, 16)
		cdb[0] = byte(op)
		if byOpcode[op] == nil {
			if r := b.start(b.nexus, 0, AttrSimple, cdb, nil).wait(); r.String() != "02/5/2000" {
				t.Errorf("opcode %02x is not in the table and ends %v", op, r)
			}
		}
	}
}

// Each page in the list of pages is there, with its own code and the length it
// says (SPC-4 §7.8); the identification page carries the volume's names.
func TestVitalProductData(t *testing.T) {
	b := newBed(t)
	list := b.want("00", "12 01 00 00 ff 00").data
	for _, code := range list[4:] {
		p := b.want("00", fmt.Sprintf("12 01 %02x 02 00 00", code)).data
		if p[1] != code || int(be16(p[2:])) != len(p)-4 {
			t.Errorf("page %02x says %x", code, p[:4])
		}
	}
	id := b.want("00", "12 01 83 02 00 00").data
	naa := identity.NAA(bedUnit)
	uuid := identity.UUID(bedUnit)
	for _, want := range [][]byte{
		append([]byte{0x01, 0x03, 0, 16}, naa[:]...),
		append([]byte{0x01, 0x0a, 0, 18, 0x10, 0}, uuid[:]...),
		{0x51, 0x94, 0, 4, 0, 0, 0, 1},
		{0x51, 0x95, 0, 4, 0, 0, 0, 1},
		append([]byte{0x53, 0x98, 0, 40}, "iqn.2025-01.dev.blockd:test,t,0x0001\x00\x00\x00\x00"...),
		append([]byte{0x53, 0xa8, 0, 28}, "iqn.2025-01.dev.blockd:test\x00"...),
	} {
		if !bytes.Contains(id, want) {
			t.Errorf("page 83h lacks %x:\n%s", want, hex.Dump(id))
		}
	}
	if serial := b.want("00", "12 01 80 00 ff 00").data[4:]; string(serial) != identity.Serial(bedUnit) {
		t.Errorf("serial number is %q", serial)
	}
}

// Where no unit is, INQUIRY says so with qualifier 011b, REQUEST SENSE and the
// rest with LOGICAL UNIT NOT SUPPORTED (SPC-4 §6.6.2, SAM-5 §5.11); the REPORT
// LUNS well known unit answers what it must.
func TestLUNsWithoutAUnit(t *testing.T) {
	b := newBed(t)
	at := func(lun uint64, cdb string) result {
		return b.start(b.nexus, lun, AttrSimple, fromHex(cdb), nil).wait()
	}
	for _, lun := range []uint64{7 << 48, 0x4007 << 48, 0x0100 << 48, 1, 0xffff << 48, 0x8000 << 48} {
		if r := at(lun, "12 00 00 00 60 00"); r.String() != "00" || r.data[0] != 0x7f {
			t.Errorf("inquiry to LUN %016x: %v %x", lun, r, r.data)
		}
		if r := at(lun, "00 00 00 00 00 00"); r.String() != "02/5/2500" {
			t.Errorf("test unit ready to LUN %016x: %v", lun, r)
		}
		if r := at(lun, "03 00 00 00 12 00"); r.String() != "00" || be16(r.data[12:]) != 0x2500 {
			t.Errorf("request sense to LUN %016x: %v %x", lun, r, r.data)
		}
	}
	if r := at(0x4000<<48, "00 00 00 00 00 00"); r.String() != "00" {
		t.Errorf("LUN 0 in flat addressing: %v", r)
	}
	const well = uint64(wlunReportLUNs) << 48
	if r := at(well, "12 00 00 00 60 00"); r.String() != "00" || r.data[0] != 0x1e {
		t.Errorf("inquiry to the well known unit: %v %x", r, r.data)
	}
	if r := at(well, "a0 00 02 00 00 00 00 00 01 00 00 00"); r.String() != "00" ||
		!bytes.Equal(r.data, fromHex("00000010 00000000 0000000000000000 c101000000000000")) {
		t.Errorf("report luns: %v %x", r, r.data)
	}
	if r := at(well, "28 00 00 00 00 00 00 00 01 00"); r.String() != "02/5/2000" {
		t.Errorf("read from the well known unit: %v", r)
	}
}
