package scsi

// NexusID names an I_T nexus: one initiator port talking to one target port.
// For iSCSI the initiator port is the iSCSI name with the ISID, the target
// port the iSCSI name with the portal group tag (RFC 7143 §10.1, SPC-5
// §7.6.4.6 TransportID).
type NexusID struct {
	InitiatorName string  // iqn., eui. or naa. name, as normalised at login
	ISID          [6]byte // zero for transports without one
	TargetPort    uint16  // relative target port identifier, 1 and up
}

// TMF is a task management function (SAM-5 §7); the values are those of the
// iSCSI Function field (RFC 7143 §11.5.1).
type TMF uint8

// The task management functions.
const (
	TMFAbortTask       TMF = 1
	TMFAbortTaskSet    TMF = 2
	TMFClearACA        TMF = 3
	TMFClearTaskSet    TMF = 4
	TMFLUNReset        TMF = 5
	TMFTargetWarmReset TMF = 6
	TMFTargetColdReset TMF = 7
)

// TMFResult is the service response to a task management function; the values
// are those of the iSCSI Response field (RFC 7143 §11.6.1).
type TMFResult uint8

// The task management responses.
const (
	TMFComplete         TMFResult = 0
	TMFTaskDoesNotExist TMFResult = 1
	TMFLUNDoesNotExist  TMFResult = 2
	TMFNotSupported     TMFResult = 5
	TMFRejected         TMFResult = 255
)
