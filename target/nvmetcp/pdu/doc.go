// Package pdu is the wire format of NVMe/TCP (NVMe TCP Transport
// Specification 1.0 §3.6): the PDUs, their framing with digests and padding,
// and the fatal errors that a malformed one earns. It holds no socket and
// keeps no state.
//
// A PDU on the wire, all numbers little-endian:
//
//	0        8           HLEN    +4      PDO        PDO+DATA  +4
//	+--------+-----------+-------+-------+----------+--------+
//	| common | specific  | HDGST | pad   | DATA     | DDGST  |
//	| header | header    | (opt) | (opt) | (opt)    | (opt)  |
//	+--------+-----------+-------+-------+----------+--------+
//	<--------------------- PLEN ----------------------------->
//
//	common header:  type(1) FLAGS(1) HLEN(1) PDO(1) PLEN(4)
//
// The receiver takes the common header with Header.Decode, learns from
// Rules.Frame where the parts are, or how the PDU breaks the rules, and decodes
// the specific header with the Decode of its type. Append writes one.
package pdu
