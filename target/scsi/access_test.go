package scsi

import (
	"testing"

	"blockd.dev/blockdev/ram"
	"blockd.dev/target/access"
)

// SET TARGET PORT GROUPS reaches the unit that it is sent to and no other, and
// is undone when the configuration says something new (SPC-4 §6.45).
func TestHostSetsAccessOfOneUnit(t *testing.T) {
	second, err := ram.New(ram.Config{SizeBytes: bedBlocks * bedBlock})
	if err != nil {
		t.Fatal(err)
	}
	other := UnitID{9}
	both := func(cfg *TargetConfig) {
		cfg.Units = append(cfg.Units, UnitConfig{ID: other, Name: "vol1", Device: second})
		cfg.AnyView[1] = other
	}
	b := newBed(t, both)
	const tur = "00 00 00 00 00 00"
	at := func(lun uint64, cdb string, data ...byte) string {
		return b.start(b.nexus, lun<<48, AttrSimple, fromHex(cdb), data).wait().String()
	}
	if got := at(1, tur); got != "02/6/2901" && got != "02/6/2900" && got != "00" {
		t.Fatalf("the second unit: %s", got)
	}
	b.want("00", "a4 0a 00 00 00 00 00 00 00 08 00 00", fromHex("00000000 03 00 0001")...)
	b.want("02/2/040c", tur)
	if got := at(1, tur); got != "00" {
		t.Errorf("the second unit after the first was set unavailable: %s", got)
	}

	cfg := b.config()
	both(&cfg)
	cfg.Groups = []GroupConfig{{ID: 1, State: AccessNonOptimized}}
	if err := b.target.Configure(cfg); err != nil {
		t.Fatal(err)
	}
	b.want("02/6/2a06", tur)
	b.want("00", tur)
}

// What the volume itself is counts for its unit alone, whatever the port groups
// and hosts say; hosts are told, and REPORT TARGET PORT GROUPS says why.
func TestAccessOfAVolume(t *testing.T) {
	b := newBed(t)
	const tur, groups = "00 00 00 00 00 00", "a3 0a 00 00 00 00 00 00 00 40 00 00"
	for _, c := range []struct {
		state access.State
		code  byte
		want  string
	}{
		{access.NonOptimized, 0x1, "00"},
		{access.Inaccessible, 0x3, "02/2/040c"},
		{access.Transition, 0xf, "02/2/040a"},
		{access.Optimized, 0x0, "00"},
	} {
		cfg := b.config()
		cfg.Units[0].Access = c.state
		if err := b.target.Configure(cfg); err != nil {
			t.Fatal(err)
		}
		b.want("02/6/2a06", tur)
		b.want(c.want, tur)
		if p := b.want("00", groups).data; p[4]&0xf != c.code || p[9] != statusByTarget {
			t.Errorf("%v: REPORT TARGET PORT GROUPS says %x", c.state, p)
		}
		if c.state == access.Inaccessible { // no host can make it accessible
			b.want("02/4/670a", "a4 0a 00 00 00 00 00 00 00 08 00 00", fromHex("00000000 00 00 0001")...)
			b.want(c.want, tur)
		}
	}
}

// A write-protected volume can be read and not written; MODE SENSE says so, and
// every host is told of the change.
func TestWriteProtectedVolume(t *testing.T) {
	b := newBed(t)
	const write = "2a 00 00 00 00 00 00 00 01 00"
	for _, c := range []struct {
		p    access.Protection
		want string
	}{
		{access.Protected, "02/7/2700"}, {access.UntilPowerCycle, "02/7/2700"}, {access.Permanent, "02/7/2705"}, {access.Unprotected, "00"},
	} {
		cfg := b.config()
		cfg.Units[0].Protect = c.p
		if err := b.target.Configure(cfg); err != nil {
			t.Fatal(err)
		}
		b.want("02/6/2a01", "00 00 00 00 00 00")
		b.want(c.want, write, fill(bedBlock, 1)...)
		b.want(c.want, "93 08 00 00 00 00 00 00 00 00 00 00 00 01 00 00", fill(bedBlock, 0)...) // WRITE SAME
		b.want("00", "28 00 00 00 00 00 00 00 01 00")
		if p := b.want("00", "1a 00 3f 00 40 00").data; (p[2]&0x80 != 0) != c.p.On() {
			t.Errorf("%v: WP is wrong in %x", c.p, p[:4])
		}
	}
}
