package daemon

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"

	"blockd.dev/blockdev"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/target/iscsi"
	"blockd.dev/target/iscsi/pdu"
)

// waitsForReplica is how long a write waits for a replica, by itself (device.Timeouts.Op).
const waitsForReplica = 30 * time.Second

// A host of the one protocol does not wait for those of the other, which may not log out though
// they are asked to.
func TestStopEndsBothProtocolsAtOnce(t *testing.T) {
	t.Parallel()
	d := start(t, testConfig(t.TempDir()))
	h := attach(t, d)
	deaf := loginDeaf(t, d)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- d.Stop(ctx) }()
	select {
	case <-h.nvme.Gone():
	case <-time.After(10 * time.Second):
		t.Error("an NVMe host waits for an iSCSI initiator")
	}
	if !slices.ContainsFunc(d.iscsi.Sessions(), func(i iscsi.SessionInfo) bool { return i.Initiator == deafName }) {
		t.Error("the initiator that does not log out has gone before")
	}
	_ = deaf.Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

const deafName = "iqn.2026-01.dev.blockd:deaf"

// loginDeaf is a session of an initiator that answers nothing.
func loginDeaf(t *testing.T, d *Daemon) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", d.ISCSIAddresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	keys := "InitiatorName=" + deafName + "\x00SessionType=Normal\x00TargetName=" + d.catalog.State().IQN + "\x00"
	q := pdu.LoginRequest{Transit: true, CSG: pdu.StageOperational, NSG: pdu.StageFullFeature, ISID: [6]byte{0x80, 7}, ITT: 1, CmdSN: 1, DataLen: len(keys)}
	if _, err := c.Write(append(append(q.Append(nil), keys...), make([]byte, pdu.Pad(len(keys)))...)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, pdu.BHSLen)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	var r pdu.LoginResponse
	if _, err := r.Decode(b); err != nil || r.Status != pdu.LoginSuccess || !r.Transit {
		t.Fatalf("%+v: %v", r, err)
	}
	return c
}

// A node that stops ends what its hosts wait for: here for a replica that can't be reached
// and that no write can do without, at the owner of the volume and at a node that has
// forwarded to it.
func TestStopDoesNotWaitForReplicas(t *testing.T) {
	t.Parallel()
	a, nodes := threeNodes(t)
	pools := blockdv1connect.NewPoolServiceClient(a.client(), nodes[0].url())
	if _, err := pools.CreatePool(t.Context(), connect.NewRequest(&blockdv1.CreatePoolRequest{Name: "all", Replicas: 3, MinInSync: 3})); err != nil {
		t.Fatal(err)
	}
	volumes := blockdv1connect.NewVolumeServiceClient(a.client(), nodes[0].url())
	if _, err := volumes.CreateVolume(t.Context(), connect.NewRequest(&blockdv1.CreateVolumeRequest{Name: "v", SizeBytes: 64 << 20, Pool: "all"})); err != nil {
		t.Fatal(err)
	}
	mapToAny(t, a, nodes[0], "v")
	id := nodes[0].Daemon().catalog.State().Volume("v").ID
	owner := ownerOf(t, nodes, id)
	var other, silent *testNode
	for _, n := range nodes {
		switch {
		case n == owner:
		case other == nil:
			other = n
		default:
			silent = n
		}
		until(t, n.cfg.Name+" shows the volume", func() bool { v, ok := n.Daemon().volumes.get(id); return ok && v.dev != nil })
	}
	if err := silent.Daemon().shared.Load().network.close(); err != nil {
		t.Fatal(err)
	}
	for i, n := range []*testNode{other, owner} {
		h := attach(t, n.Daemon())
		ended, began := make(chan error, 1), time.Now()
		h.ns.Submit([]*blockdev.Request{{Op: blockdev.OpWrite, Offset: int64(i) << 20, Length: 4096, Data: [][]byte{make([]byte, 4096)}, Done: func(r *blockdev.Request) { ended <- r.Err }}})
		v := owner.Daemon().shared.Load().sharedVolume(id)
		until(t, "the write to wait for the replica", func() bool { st := v.Status().Volume; return st.Waiting+st.InFlight > i })
		select {
		case err := <-ended:
			t.Fatalf("the write does not wait: %v", err)
		default:
		}
		n.stop()
		// With an answer, which there is when the write can't be sent any more; not by the end
		// of the connection, before that. One that has not begun is for another path.
		if err := <-ended; !errors.Is(err, blockdev.ErrBusy) && !errors.Is(err, blockdev.ErrFenced) {
			t.Errorf("%s: the write has ended with %v, want busy, or inaccessible by this path", n.cfg.Name, err)
		}
		if took := time.Since(began); took >= waitsForReplica {
			t.Errorf("%s has stopped %v after the write began: it waited for the replica", n.cfg.Name, took)
		}
	}
}
