//go:build e2e

package xdplink

import (
	"testing"

	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/netlab"
)

// TestConformanceEverywhere: every mode that a veth has, both families, short
// and long frames, with and without a bridge between.
func TestConformanceEverywhere(t *testing.T) {
	for _, c := range []conformanceCase{
		{"native IPv4", netlab.Config{}, false, Copy, link.XDPCopy},
		{"native IPv6 jumbo bridge", netlab.Config{MTU: 9000, Bridge: true}, true, Auto, link.XDPCopy},
		{"generic IPv6", netlab.Config{}, true, Generic, link.XDPGeneric},
		{"generic IPv4 jumbo", netlab.Config{MTU: 9000}, false, Generic, link.XDPGeneric},
	} {
		t.Run(c.name, c.run)
	}
}
