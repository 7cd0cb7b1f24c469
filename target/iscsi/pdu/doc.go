// Package pdu is the wire format of iSCSI (RFC 7143 §11, with the additions
// of RFC 7144): one type per PDU, the text keys in data segments, and the
// digests. It holds no socket, no clock and no state.
//
// Every PDU type has two methods. Decode takes the basic header segment with
// its additional header segments (AHS), checks what can be checked without
// knowing the session, and returns how many bytes it used; Append encodes.
// Data segments, padding and digests follow the header on the wire and are
// the caller's: the DataLen field of a PDU says how long its data is.
package pdu
