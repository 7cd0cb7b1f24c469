package simlink

import (
	"net/netip"
	"testing"

	"blockd.dev/afxdp/link"
	"blockd.dev/afxdp/link/linktest"
)

func TestConformance(t *testing.T) {
	linktest.Run(t, linktest.Suite{Allocates: true, Open: func(t *testing.T) (a, b link.Link) {
		r := NewReal(1)
		x := r.Link(netip.MustParseAddrPort("10.0.0.1:1"), 8900)
		y := r.Link(netip.MustParseAddrPort("10.0.0.2:1"), 8900)
		t.Cleanup(func() {
			x.Close()
			y.Close()
		})
		return x, y
	}})
}
