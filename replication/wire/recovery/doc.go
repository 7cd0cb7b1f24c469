// Package recovery decides what was lost and how much may be sent: the
// round-trip time (rtt.go), the packets in flight and which of them are lost
// (ledger.go), the congestion window (window.go) and the pace (pacer.go).
// Everything is a plain value driven by calls with the time passed in; nothing
// here allocates once its rings have grown. docs/TRANSPORT.md has the rules
// and the reasons.
package recovery
