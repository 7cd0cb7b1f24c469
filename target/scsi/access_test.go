package scsi

import (
	"testing"

	"blockd.dev/blockdev/ram"
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
