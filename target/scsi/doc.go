// Package scsi is the SCSI device server: it takes commands from a transport
// (target/iscsi) and executes them on blockdev.Devices, as SAM-5, SPC-5 and
// SBC-4 have it. It knows logical units, nexuses, unit attentions, task sets
// and task management; it knows no socket and no PDU.
package scsi
