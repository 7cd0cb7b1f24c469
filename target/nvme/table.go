package nvme

import "blockd.dev/target/reservation"

// entry is a row of the opcode tables.
type entry struct {
	name   string
	opcode uint8
	flags  entryFlags
	access reservation.Access // what reservations are asked for
	// effects are the bits of the Commands Supported and Effects log page
	// beside CSUPP.
	effects uint32
	// offered tells whether the controller has the command, by what it sees;
	// nil means always.
	offered func(*nsView) bool
	// prepare checks the fields and sets Dir and Length; nil means that there
	// are none.
	prepare func(*Command) Status
	execute func(*Command)

	row int // in counters, from 1; set at start
}

// entryFlags say where a command may be used.
type entryFlags uint8

const (
	flagDiscovery  entryFlags = 1 << iota // a discovery controller has it too
	flagBroadcast                         // NSID FFFFFFFFh means all namespaces
	flagFirstHalf                         // may begin a fused pair
	flagSecondHalf                        // may end one
	flagSteps                             // takes several device requests, so Abort can end it between two
	flagAdminQueue                        // Fabrics: not on I/O queues
	flagIOQueue                           // Fabrics: not on the admin queue
)

// Bits of the Commands Supported and Effects log page (NVMe Base 2.0 figure
// "Commands Supported and Effects Data Structure").
const (
	effectSupported  uint32 = 1 << 0
	effectData       uint32 = 1 << 1  // LBCC: changes logical block content
	effectCapability uint32 = 1 << 4  // CCC: changes controller capabilities
	scopeNamespace   uint32 = 1 << 20 // CSP
	scopeController  uint32 = 1 << 21
)

// The tables that dispatch commands, by opcode and, for Fabrics, by command
// type. They are filled once, at start.
var (
	adminTable   [256]*entry
	ioTable      [256]*entry
	fabricsTable [256]*entry
)

var adminCommands = []entry{
	{name: "Get Log Page", opcode: OpGetLogPage, flags: flagDiscovery, effects: scopeController, prepare: prepareLogPage, execute: getLogPage},
	{name: "Identify", opcode: OpIdentify, flags: flagDiscovery, effects: scopeController, prepare: prepareIdentify, execute: identify},
	{name: "Abort", opcode: OpAbort, flags: flagDiscovery, effects: scopeController, execute: abort},
	{name: "Set Features", opcode: OpSetFeatures, flags: flagDiscovery, effects: scopeController | effectCapability, prepare: prepareSetFeatures, execute: setFeatures},
	{name: "Get Features", opcode: OpGetFeatures, flags: flagDiscovery, effects: scopeController, prepare: prepareGetFeatures, execute: getFeatures},
	{name: "Asynchronous Event Request", opcode: OpAsyncEventRequest, flags: flagDiscovery, effects: scopeController, prepare: prepareAER, execute: asyncEventRequest},
	{name: "Keep Alive", opcode: OpKeepAlive, flags: flagDiscovery, effects: scopeController, execute: keepAliveCommand},
}

var ioCommands = []entry{
	{name: "Flush", opcode: OpFlush, flags: flagBroadcast, access: reservation.AccessWrite, effects: scopeNamespace, execute: flush},
	{name: "Write", opcode: OpWrite, flags: flagSecondHalf, access: reservation.AccessWrite, effects: scopeNamespace | effectData, prepare: prepareWrite, execute: write},
	{name: "Read", opcode: OpRead, access: reservation.AccessRead, effects: scopeNamespace, prepare: prepareRead, execute: read},
	{name: "Write Uncorrectable", opcode: OpWriteUncorrectable, access: reservation.AccessWrite, effects: scopeNamespace | effectData, offered: (*nsView).poisons, prepare: prepareWriteUncorrectable, execute: writeUncorrectable},
	{name: "Compare", opcode: OpCompare, flags: flagFirstHalf | flagSteps, access: reservation.AccessRead, effects: scopeNamespace, prepare: prepareCompare, execute: compare},
	{name: "Write Zeroes", opcode: OpWriteZeroes, access: reservation.AccessWrite, effects: scopeNamespace | effectData, prepare: prepareWriteZeroes, execute: writeZeroes},
	{name: "Dataset Management", opcode: OpDatasetManagement, flags: flagSteps, access: reservation.AccessWrite, effects: scopeNamespace | effectData, prepare: prepareDSM, execute: datasetManagement},
	{name: "Verify", opcode: OpVerify, flags: flagSteps, access: reservation.AccessRead, effects: scopeNamespace, prepare: prepareVerify, execute: verify},
	{name: "Reservation Register", opcode: OpReservationRegister, effects: scopeNamespace, prepare: prepareRegister, execute: reservationCommand},
	{name: "Reservation Report", opcode: OpReservationReport, effects: scopeNamespace, prepare: prepareReport, execute: reservationReport},
	{name: "Reservation Acquire", opcode: OpReservationAcquire, effects: scopeNamespace, prepare: prepareAcquire, execute: reservationCommand},
	{name: "Reservation Release", opcode: OpReservationRelease, effects: scopeNamespace, prepare: prepareRelease, execute: reservationCommand},
	{name: "Copy", opcode: OpCopy, flags: flagSteps, access: reservation.AccessWrite, effects: scopeNamespace | effectData, prepare: prepareCopy, execute: copyBlocks},
}

// fabricsCommands are told by command type in place of the opcode.
var fabricsCommands = []entry{
	{name: "Property Set", opcode: FabricsPropertySet, flags: flagAdminQueue, prepare: preparePropertySet, execute: propertySet},
	{name: "Property Get", opcode: FabricsPropertyGet, flags: flagAdminQueue, prepare: preparePropertyGet, execute: propertyGet},
	{name: "Disconnect", opcode: FabricsDisconnect, flags: flagIOQueue, prepare: prepareDisconnect, execute: disconnect},
}

// tables are all of them, by the names that Stats gives them.
var tables = []struct {
	set   string
	table *[256]*entry
	rows  []entry
}{{"admin", &adminTable, adminCommands}, {"io", &ioTable, ioCommands}, {"fabrics", &fabricsTable, fabricsCommands}}

// rowsMax is more than there are commands.
const rowsMax = 32

// on reports whether a controller that sees v has the command.
func (e *entry) on(v *nsView) bool { return e != nil && (e.offered == nil || e.offered(v)) }

func init() {
	row := 0
	for _, t := range tables {
		for i := range t.rows {
			row++
			t.rows[i].row = row
			t.table[t.rows[i].opcode] = &t.rows[i]
		}
	}
	if row >= rowsMax {
		panic("nvme: more commands than rowsMax allows: raise it")
	}
}
