package scsi

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"strings"
)

// accessClass says which reservations of other nexuses a command conflicts
// with (SPC-5 §5.13.3 and SBC-4 §4.17 for persistent ones, SPC-2 §5.5.1 for
// RESERVE and RELEASE).
type accessClass uint8

const (
	// accessAlways conflicts with nothing: INQUIRY, REPORT LUNS, REQUEST SENSE.
	accessAlways accessClass = iota
	// accessStatus conflicts with SPC-2 reservations only.
	accessStatus
	// accessRead conflicts with exclusive access.
	accessRead
	// accessWrite conflicts with write exclusive and exclusive access.
	accessWrite
	// accessOwn commands check reservations themselves (PERSISTENT RESERVE
	// OUT, RESERVE, RELEASE); conflict is asked all the same, with this class.
	accessOwn
)

// commandFlags are properties of a command.
type commandFlags uint8

const (
	flagNoAttention commandFlags = 1 << iota // does not report unit attentions
	flagAnyLUN                               // answered where no unit is
	flagLUNZero                              // answered at LUN 0 when no unit is there
	flagWellKnown                            // answered by the REPORT LUNS well known unit
	flagMedium                               // needs a started unit and an active port
	// flagGroup marks commands with a GROUP NUMBER field. Grouping is not
	// supported (GROUP_SUP=0), and a group number then means nothing.
	flagGroup
)

// command is one row of the opcode table: what REPORT SUPPORTED OPERATION
// CODES says about a command and what is done for it come from the same row.
type command struct {
	name string
	// cdb is the CDB usage data in hexadecimal (SPC-5 §6.33.3): the opcode,
	// the service action in its field, ones where a bit is evaluated.
	cdb string
	// ignored marks bits that are not evaluated and yet let through: what
	// older standards defined and newer ones made obsolete. Same length as
	// cdb, or empty.
	ignored string
	access  accessClass
	flags   commandFlags

	// supported tells units that have the command; nil means all.
	supported func(*LU) bool
	// classOf refines access by the CDB; nil means access.
	classOf func(*[cdbMax]byte) accessClass
	// prepare decodes the CDB into the task: Dir, Length, state.
	prepare func(*Task) sense
	// execute does it and ends the task.
	execute func(*Task)

	// Derived at start.
	usage    []byte
	opcode   byte
	service  int // service action, -1 without
	reserved [2]uint64
}

// serviceByte is where the service action of an opcode is, in the low five
// bits of byte 1; opcodes without are not in the map.
var hasService = map[byte]bool{0x5e: true, 0x5f: true, 0x83: true, 0x84: true, 0x9e: true, 0x9f: true, 0xa3: true, 0xa4: true}

// table holds every command; first finds an opcode's, by service action where
// it has one.
var (
	table    []*command
	byOpcode [256]*opcodeEntry
)

type opcodeEntry struct {
	plain   *command
	service *[32]*command
}

func init() {
	for _, group := range [][]command{basicCommands, blockCommands, provisionCommands, pageCommands, maintenanceCommands, copyCommands, reservationCommands} {
		for i := range group {
			register(&group[i])
		}
	}
}

// register adds c to the table. It panics on a row that can't be right.
func register(c *command) {
	usage, err := hex.DecodeString(strings.ReplaceAll(c.cdb, " ", ""))
	if err != nil || len(usage) < 6 || len(usage) > cdbMax {
		panic(fmt.Sprintf("scsi: CDB usage of %s: %v", c.name, err))
	}
	ignored, err := hex.DecodeString(strings.ReplaceAll(c.ignored, " ", ""))
	if err != nil || len(ignored) != 0 && len(ignored) != len(usage) {
		panic(fmt.Sprintf("scsi: ignored bits of %s: %v", c.name, err))
	}
	c.usage, c.opcode, c.service = usage, usage[0], -1
	var evaluated [cdbMax]byte
	for i := range evaluated {
		evaluated[i] = 0xff
	}
	copy(evaluated[:], usage)
	for i := range ignored {
		evaluated[i] |= ignored[i]
	}
	evaluated[0] = 0xff
	if c.flags&flagGroup != 0 {
		evaluated[groupByte(len(usage))] |= 0x3f
	}
	// Control byte: vendor-specific bits and the obsolete FLAG and LINK are
	// nobody's business; NACA and reserved bits are refused.
	evaluated[len(usage)-1] |= 0xc3
	if hasService[c.opcode] {
		c.service = int(usage[1] & 0x1f)
		evaluated[1] |= 0x1f
	}
	c.reserved[0] = ^binary.BigEndian.Uint64(evaluated[:8])
	c.reserved[1] = ^binary.BigEndian.Uint64(evaluated[8:])

	e := byOpcode[c.opcode]
	if e == nil {
		e = &opcodeEntry{}
		byOpcode[c.opcode] = e
	}
	table = append(table, c)
	if c.service < 0 {
		if e.plain != nil {
			panic(fmt.Sprintf("scsi: opcode %02xh is %s and %s", c.opcode, e.plain.name, c.name))
		}
		e.plain = c
		return
	}
	if e.service == nil {
		e.service = new([32]*command)
	}
	if e.service[c.service] != nil {
		panic(fmt.Sprintf("scsi: opcode %02xh/%02xh is %s and %s", c.opcode, c.service, e.service[c.service].name, c.name))
	}
	e.service[c.service] = c
}

// groupByte is where CDBs of a length have the GROUP NUMBER.
func groupByte(length int) int {
	if length == 10 {
		return 6
	}
	return length - 2
}

// lookup finds the command of a CDB; nil when there is none.
func lookup(cdb *[cdbMax]byte) *command {
	e := byOpcode[cdb[0]]
	if e == nil {
		return nil
	}
	if e.service == nil {
		return e.plain
	}
	return e.service[cdb[1]&0x1f]
}

// knownOpcode reports whether the opcode is there with some service action.
func knownOpcode(op byte) bool { e := byOpcode[op]; return e != nil && e.service != nil }

func (c *command) accessOf(cdb *[cdbMax]byte) accessClass {
	if c.classOf != nil {
		return c.classOf(cdb)
	}
	return c.access
}

// checkReserved refuses a CDB that is too short or has a bit set that the
// command does not evaluate.
func (c *command) checkReserved(cdb *[cdbMax]byte, length int) sense {
	if length < len(c.usage) {
		return badCDBByte(length)
	}
	if w := binary.BigEndian.Uint64(cdb[:8]) & c.reserved[0]; w != 0 {
		z := bits.LeadingZeros64(w)
		return badCDB(z/8, uint8(7-z%8))
	}
	if w := binary.BigEndian.Uint64(cdb[8:]) & c.reserved[1]; w != 0 {
		z := bits.LeadingZeros64(w)
		return badCDB(8+z/8, uint8(7-z%8))
	}
	return sense{}
}

// responseMax caps the buffer for parameter data: no response is longer, so a
// larger allocation length changes nothing.
const responseMax = 256 << 10

// wantIn sets up t to return parameter data with an allocation length.
func (t *Task) wantIn(allocation uint32) sense {
	if allocation == 0 {
		return sense{}
	}
	t.Dir, t.Length = DirIn, int(min(allocation, responseMax))
	return sense{}
}

// wantOut sets up t to take a parameter list, at most limit bytes.
func (t *Task) wantOut(length, limit uint32) sense {
	if length > limit {
		return illegal(ascParameterListLength)
	}
	if length == 0 {
		return sense{}
	}
	t.Dir, t.Length = DirOut, int(length)
	return sense{}
}

// parameters copies the parameter list out of Data. What the initiator did
// not send is missing.
func (t *Task) parameters() []byte {
	p := make([]byte, min(t.OutLen, t.Length))
	if len(p) > 0 {
		p = p[:t.Data.CopyOut(0, p)]
	}
	return p
}

// noData is the prepare of commands without data and fields to check.
func noData(*Task) sense { return sense{} }
