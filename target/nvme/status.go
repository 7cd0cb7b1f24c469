package nvme

import "fmt"

// Status is a completion's Status field without the phase tag, as the
// specification numbers its bits from 17 of Dword 3 (NVMe Base 2.0 §3.3.3.2.1):
// Status Code in bits 7:0, Status Code Type 10:8, Command Retry Delay 12:11,
// More 13, Do Not Retry 14. The CQE holds Status << 1.
type Status uint16

// DNR says that the same command would fail again (Do Not Retry).
const DNR Status = 1 << 14

// The Command Retry Delay that transient failures carry for hosts that
// enabled it: the first of Identify Controller's three times.
const crd1 Status = 1 << 11

// statusCodes is one more than the largest Code.
const statusCodes = 0x800

// Code is s without the bits that do not say what happened.
func (s Status) Code() Status { return s & (statusCodes - 1) }

// OK reports success.
func (s Status) OK() bool { return s.Code() == Success }

// Retryable reports whether the host may send the command again.
func (s Status) Retryable() bool { return s&DNR == 0 }

// Generic command status (NVMe Base 2.0 figure "Generic Command Status Values").
const (
	Success                 Status = 0x000
	InvalidOpcode           Status = 0x001
	InvalidField            Status = 0x002
	CommandIDConflict       Status = 0x003
	DataTransferError       Status = 0x004
	InternalError           Status = 0x006
	CommandAborted          Status = 0x007
	AbortedSQDeletion       Status = 0x008
	AbortedFailedFused      Status = 0x009
	AbortedMissingFused     Status = 0x00a
	InvalidNamespace        Status = 0x00b
	CommandSequenceError    Status = 0x00c
	InvalidSGLCount         Status = 0x00e
	InvalidSGLLength        Status = 0x00f
	InvalidSGLType          Status = 0x011
	InvalidSGLOffset        Status = 0x016
	HostIDInconsistent      Status = 0x018
	KeepAliveInvalid        Status = 0x01a
	AbortedPreempt          Status = 0x01b
	NamespaceWriteProtected Status = 0x020
	CommandInterrupted      Status = 0x021 // may pass: send it again
	TransientTransportError Status = 0x022
	LBAOutOfRange           Status = 0x080
	CapacityExceeded        Status = 0x081
	NamespaceNotReady       Status = 0x082
	ReservationConflict     Status = 0x083
)

// Command specific status (SCT 1).
const (
	AbortLimitExceeded       Status = 0x103
	AsyncEventLimitExceeded  Status = 0x105
	InvalidLogPage           Status = 0x109
	FeatureNotSaveable       Status = 0x10d
	FeatureNotChangeable     Status = 0x10e
	FeatureNotNamespace      Status = 0x10f
	IOCommandSetRejected     Status = 0x12b
	ConnectIncompatible      Status = 0x180 // Fabrics: Incompatible Format
	ConnectControllerBusy    Status = 0x181
	ConnectInvalidParameters Status = 0x182
	ConnectRestartDiscovery  Status = 0x183
	ConnectInvalidHost       Status = 0x184
	InvalidQueueType         Status = 0x185
	DiscoverRestart          Status = 0x190
	AuthenticationRequired   Status = 0x191
	ConflictingAttributes    Status = 0x180 // NVM
	CommandSizeLimit         Status = 0x183 // NVM
)

// Media and data integrity errors (SCT 2) and path related status (SCT 3).
const (
	WriteFault            Status = 0x280
	UnrecoveredReadError  Status = 0x281
	CompareFailure        Status = 0x285
	AccessDenied          Status = 0x286
	InternalPathError     Status = 0x300
	ANAPersistentLoss     Status = 0x301
	ANAInaccessibleStatus Status = 0x302
	ANATransition         Status = 0x303
	HostPathError         Status = 0x370
)

// Unanswered is not for the wire (it is of the vendor specific type): the command was not begun,
// and its host is not told so. Its connection is about to end.
const Unanswered Status = 0x7ff

// String writes s as type, code and flags, for logs.
func (s Status) String() string {
	t := fmt.Sprintf("SCT %x SC %02x", uint16(s>>8&7), uint16(s&0xff))
	if s&DNR != 0 {
		t += " DNR"
	}
	return t
}
