package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// rule is what happens to the frames of one sender on one port of the switch.
// The map of a port's program has one per last byte of the MAC address.
type rule struct {
	Chance   uint64 // of loss, out of 2^32
	Redirect uint64 // index of the interface that frames are late by; 0: none
	DelayNs  uint64 // for who makes them late
	JitterNs uint64
	Seen     uint64 // frames
	Dropped  uint64
	Late     uint64
}

const (
	ruleSize      = 7 * 8
	offChance     = 0
	offRedirect   = 8
	offSeen       = 32
	offDropped    = 40
	offLate       = 48
	mapName       = "cluster_rules"
	filterName    = "cluster_filter"
	chanceAlways  = 1 << 32
	tcxNext       = -1
	tcxDrop       = 2
	stackSource   = -8  // 6 bytes: the sender's MAC address
	stackKey      = -12 // 4 bytes
	sourceAt      = 6   // of an Ethernet frame
	senderNumbers = 256
)

// filterProgram is this, with rules the map:
//
//	skb_load_bytes(skb, 6, source, 6)
//	if source does not begin with macStart: pass
//	r = rules[source[5]]
//	r.seen++
//	if r.chance != 0 && prandom_u32() < r.chance: r.dropped++, drop
//	if r.redirect != 0: r.late++, redirect(r.redirect, 0)
//	pass
//
// It is written out here rather than in C, since it is short and the map is
// made along with it.
func filterProgram(rules *ebpf.Map) asm.Instructions {
	one := func(at int16) asm.Instructions {
		return asm.Instructions{asm.Mov.Imm(asm.R1, 1), asm.AddAtomic.Mem(asm.R7, asm.R1, asm.DWord, at)}
	}
	b := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.Mov.Imm(asm.R2, sourceAt),
		asm.Mov.Reg(asm.R3, asm.R10),
		asm.Add.Imm(asm.R3, stackSource),
		asm.Mov.Imm(asm.R4, 6),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R1, asm.R10, stackSource, asm.Word),
		asm.JNE.Imm32(asm.R1, int32(binary.NativeEndian.Uint32(macStart[:4])), "pass"),
		asm.LoadMem(asm.R1, asm.R10, stackSource+4, asm.Byte),
		asm.JNE.Imm(asm.R1, int32(macStart[4]), "pass"),
		asm.LoadMem(asm.R1, asm.R10, stackSource+5, asm.Byte),
		asm.StoreMem(asm.R10, stackKey, asm.R1, asm.Word),
		asm.LoadMapPtr(asm.R1, rules.FD()),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, stackKey),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Mov.Reg(asm.R7, asm.R0),
	}
	b = append(b, one(offSeen)...)
	b = append(b,
		asm.LoadMem(asm.R8, asm.R7, offChance, asm.DWord),
		asm.JEq.Imm(asm.R8, 0, "kept"),
		asm.FnGetPrandomU32.Call(),
		asm.LSh.Imm(asm.R0, 32), // the upper half is not promised to be zero
		asm.RSh.Imm(asm.R0, 32),
		asm.JGE.Reg(asm.R0, asm.R8, "kept"),
	)
	b = append(b, one(offDropped)...)
	b = append(b,
		asm.Mov.Imm(asm.R0, tcxDrop),
		asm.Return(),
		asm.LoadMem(asm.R8, asm.R7, offRedirect, asm.DWord).WithSymbol("kept"),
		asm.JEq.Imm(asm.R8, 0, "pass"),
	)
	b = append(b, one(offLate)...)
	return append(b,
		asm.Mov.Reg(asm.R1, asm.R8),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, tcxNext).WithSymbol("pass"),
		asm.Return(),
	)
}

// attachFilter puts a program with an empty map on what leaves the interface,
// for as long as the interface exists.
func attachFilter(name string) error {
	dev, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	rules, err := ebpf.NewMap(&ebpf.MapSpec{Name: mapName, Type: ebpf.Array, KeySize: 4, ValueSize: ruleSize, MaxEntries: senderNumbers})
	if err != nil {
		return fmt.Errorf("map: %w", err)
	}
	defer func() { _ = rules.Close() }() // the program holds it
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: filterName, Type: ebpf.SchedCLS, AttachType: ebpf.AttachTCXEgress,
		Instructions: filterProgram(rules), License: "Apache-2.0"})
	if err != nil {
		return fmt.Errorf("program: %w", err)
	}
	defer func() { _ = program.Close() }()
	err = link.RawAttachProgram(link.RawAttachProgramOptions{Target: dev.Index, Program: program, Attach: ebpf.AttachTCXEgress})
	if err != nil {
		return fmt.Errorf("attach a program to what leaves it, which needs Linux 6.6: %w", err)
	}
	return nil
}

// openRules finds the map of the program on the interface, whoever attached it.
func openRules(name string) (*ebpf.Map, error) {
	dev, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	attached, err := link.QueryPrograms(link.QueryOptions{Target: dev.Index, Attach: ebpf.AttachTCXEgress})
	if err != nil {
		return nil, err
	}
	for _, a := range attached.Programs {
		m, err := rulesOf(a.ID)
		if m != nil || err != nil {
			return m, err
		}
	}
	return nil, fmt.Errorf("%s has lost its program; take the cluster down", name)
}

// rulesOf returns the map of a program of this package, nil of any other.
func rulesOf(id ebpf.ProgramID) (*ebpf.Map, error) {
	program, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return nil, err
	}
	defer func() { _ = program.Close() }()
	info, err := program.Info()
	if err != nil {
		return nil, err
	}
	ids, _ := info.MapIDs()
	if info.Name != filterName || len(ids) != 1 {
		return nil, nil
	}
	return ebpf.NewMapFromID(ids[0])
}

// changeRule has change make another rule of the one for sender on a port, and
// keeps the counts. Frames that pass meanwhile are not counted.
func changeRule(rules *ebpf.Map, sender int, change func(*rule)) error {
	var r rule
	if err := rules.Lookup(uint32(sender), &r); err != nil {
		return err
	}
	change(&r)
	return rules.Put(uint32(sender), &r)
}

// chance is a percentage as the program wants it.
func chance(percent float64) (uint64, error) {
	if !(percent >= 0 && percent <= 100) { // NaN is neither
		return 0, fmt.Errorf("cluster: a loss of %v%%: want 0 to 100", percent)
	}
	return uint64(math.Round(percent / 100 * chanceAlways)), nil
}

// Wire is what the switch does, and did, to frames from one place to another.
type Wire struct {
	From    string        `json:"from"`
	To      string        `json:"to"`
	Loss    float64       `json:"loss_percent"` // 100 is a partition
	Delay   time.Duration `json:"delay_ns"`
	Jitter  time.Duration `json:"jitter_ns"`
	Seen    uint64        `json:"frames"`
	Dropped uint64        `json:"dropped"`
	Late    uint64        `json:"late"`
}

// IsFaulty tells whether anything happens to frames now.
func (w Wire) IsFaulty() bool { return w.Loss > 0 || w.Delay > 0 || w.Jitter > 0 }

// eachRule calls f for the frames from each of from to each of to, no place's own.
func (s *state) eachRule(from, to []string, f func(from, to *Place, rules *ebpf.Map) error) error {
	if len(from) == 0 || len(to) == 0 {
		return errors.New("cluster: a side is empty; name places, such as n1 n2,n3")
	}
	return inNamespace(s.namespace(switchName), func() error {
		for _, b := range to {
			pb, err := s.find(b)
			if err != nil {
				return err
			}
			rules, err := openRules(pb.port())
			if err != nil {
				return fmt.Errorf("cluster: rules for what goes to %s: %w", b, err)
			}
			for _, a := range from {
				pa, ferr := s.find(a)
				if err = ferr; err == nil && pa != pb {
					err = f(pa, pb, rules)
				}
				if err != nil {
					break
				}
			}
			if err := errors.Join(err, rules.Close()); err != nil {
				return err
			}
		}
		return nil
	})
}
