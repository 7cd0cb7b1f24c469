package daemon

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
)

// A node whose wire address is in use by another program says so, and does not
// begin to share volumes.
func TestWireAddressIsTaken(t *testing.T) {
	t.Parallel()
	n := startTestNode(t, clusterConfig(t, 1))
	api := netip.MustParseAddrPort(n.cfg.API)
	taken, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(api.Addr(), wirePort)))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = blockdv1connect.NewClusterServiceClient(n.local(), localURL).InitCluster(t.Context(), connect.NewRequest(&blockdv1.InitClusterRequest{Name: "prod"}))
	if err == nil || !strings.Contains(err.Error(), "--wire") {
		t.Errorf("with its wire address taken: %v", err)
	}
}
