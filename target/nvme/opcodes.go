package nvme

// Admin opcodes (NVMe Base 2.0 figure "Opcodes for Admin Commands").
const (
	OpGetLogPage        uint8 = 0x02
	OpIdentify          uint8 = 0x06
	OpAbort             uint8 = 0x08
	OpSetFeatures       uint8 = 0x09
	OpGetFeatures       uint8 = 0x0a
	OpAsyncEventRequest uint8 = 0x0c
	OpKeepAlive         uint8 = 0x18
	OpFabrics           uint8 = 0x7f
)

// I/O opcodes (NVM Command Set 1.0 figure "Opcodes for NVM Commands").
const (
	OpFlush               uint8 = 0x00
	OpWrite               uint8 = 0x01
	OpRead                uint8 = 0x02
	OpWriteUncorrectable  uint8 = 0x04
	OpCompare             uint8 = 0x05
	OpWriteZeroes         uint8 = 0x08
	OpDatasetManagement   uint8 = 0x09
	OpVerify              uint8 = 0x0c
	OpReservationRegister uint8 = 0x0d
	OpReservationReport   uint8 = 0x0e
	OpReservationAcquire  uint8 = 0x11
	OpReservationRelease  uint8 = 0x15
	OpCopy                uint8 = 0x19
)

// Fabrics command types, in byte 4 of the entry (NVMe Base 2.0 figure
// "Fabrics Command Type").
const (
	FabricsPropertySet uint8 = 0x00
	FabricsConnect     uint8 = 0x01
	FabricsPropertyGet uint8 = 0x04
	FabricsAuthSend    uint8 = 0x05
	FabricsAuthReceive uint8 = 0x06
	FabricsDisconnect  uint8 = 0x08
)

// NSIDAll addresses every namespace.
const NSIDAll uint32 = 0xffffffff

// DiscoveryNQN is the well-known name of the discovery subsystem (NVMe Base
// 2.0 §4.5).
const DiscoveryNQN = "nqn.2014-08.org.nvmexpress.discovery"
