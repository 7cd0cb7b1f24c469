package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"

	"blockd.dev/blockdev"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/target/access"
	"blockd.dev/target/reservation"
)

// mapToAny lets every host use a volume.
func mapToAny(t *testing.T, a admin, n *testNode, volume string) {
	t.Helper()
	_, err := blockdv1connect.NewMappingServiceClient(a.client(), n.url()).MapVolume(t.Context(),
		connect.NewRequest(&blockdv1.MapVolumeRequest{Volume: volume, Host: "any"}))
	if err != nil {
		t.Fatal(err)
	}
}

// sharedVolumeOn makes a volume with three copies on three nodes.
func sharedVolumeOn(t *testing.T, a admin, nodes []*testNode, name string) catalog.ID {
	t.Helper()
	client, n := a.client(), nodes[0]
	_, err := blockdv1connect.NewPoolServiceClient(client, n.url()).CreatePool(t.Context(),
		connect.NewRequest(&blockdv1.CreatePoolRequest{Name: "three", Replicas: 3}))
	if err != nil {
		t.Fatal(err)
	}
	r, err := blockdv1connect.NewVolumeServiceClient(client, n.url()).CreateVolume(t.Context(),
		connect.NewRequest(&blockdv1.CreateVolumeRequest{Name: name, SizeBytes: 64 << 20, Pool: "three"}))
	if err != nil {
		t.Fatal(err)
	}
	if v := r.Msg.GetVolume(); v.GetNode() == "" {
		t.Fatalf("created: %v", v)
	}
	id := nodes[0].Daemon().catalog.State().Volume(name).ID
	until(t, "every node has the volume", func() bool {
		for _, n := range nodes {
			if v, ok := n.Daemon().volumes.get(id); !ok || v.dev == nil {
				return false
			}
		}
		return true
	})
	return id
}

// ownerOf is the node that owns a volume, by its own view.
func ownerOf(t *testing.T, nodes []*testNode, id catalog.ID) *testNode {
	t.Helper()
	var found *testNode
	until(t, "somebody serves the volume", func() bool {
		for _, n := range nodes {
			if n.down {
				continue
			}
			if v := n.Daemon().shared.Load().sharedVolume(id); v != nil && v.Status().Volume.Serving {
				found = n
				return true
			}
		}
		return false
	})
	return found
}

// elect makes a node the leader of the group.
func elect(t *testing.T, n *testNode) {
	t.Helper()
	group := n.Daemon().plane.group
	until(t, n.cfg.Name+" leads", func() bool {
		if _, leads := group.Leads(); leads {
			return true
		}
		_ = group.TransferLeadership(t.Context(), n.Daemon().plane.id().String()) // the next look tells
		return false
	})
}

func inSync(n *testNode, id catalog.ID) int {
	count := 0
	for _, r := range n.Daemon().catalog.State().Replicas(id) {
		if r.Sync == extmap.InSync {
			count++
		}
	}
	return count
}

// What is written through one node is read through the others, its owner stops
// and comes back, and all copies are good again; then it is deleted everywhere.
func TestAVolumeOfThreeCopies(t *testing.T) {
	t.Parallel()
	a, nodes := threeNodes(t)
	id := sharedVolumeOn(t, a, nodes, "v")
	write := func(n *testNode, off int64, fill byte) {
		t.Helper()
		if err := writeAsHosts(volumeDevice(t, n.Daemon(), "v"), bytes.Repeat([]byte{fill}, 8192), off); err != nil {
			t.Fatalf("write through %s: %v", n.cfg.Name, err)
		}
	}
	read := func(n *testNode, off int64, fill byte) {
		t.Helper()
		got := make([]byte, 8192)
		if err := blockdev.ReadAt(volumeDevice(t, n.Daemon(), "v"), got, off); err != nil {
			t.Fatalf("read through %s: %v", n.cfg.Name, err)
		}
		if !bytes.Equal(got, bytes.Repeat([]byte{fill}, 8192)) {
			t.Fatalf("read through %s: it begins with %#x, want %#x", n.cfg.Name, got[0], fill)
		}
	}
	for i, n := range nodes {
		write(n, int64(i)<<20+512, byte(i)+1)
	}
	for _, n := range nodes {
		for i := range nodes {
			read(n, int64(i)<<20+512, byte(i)+1)
		}
	}

	owner := ownerOf(t, nodes, id)
	for _, n := range nodes {
		until(t, n.cfg.Name+" says that it is online", func() bool {
			state, _ := n.Daemon().volumeState(n.Daemon().catalog.State().Volume("v"))
			return state == "online"
		})
		want := access.NonOptimized
		if n == owner {
			want = access.Optimized
		}
		until(t, fmt.Sprintf("%s says %v", n.cfg.Name, want), func() bool { return n.Daemon().volumes.accessOf(id) == want })
	}

	var doctor strings.Builder
	for _, f := range owner.Daemon().diagnoseNetwork() {
		fmt.Fprintln(&doctor, f.GetLevel(), f.GetSubject(), f.GetMessage())
	}
	for _, want := range []string{"warning network between nodes at " + owner.Daemon().shared.Load().network.local.String() + ", in mode udp, since AF_XDP can't be had", "connected, round trips: n"} {
		if !strings.Contains(doctor.String(), want) {
			t.Errorf("no %q in the doctor's words:\n%s", want, doctor.String())
		}
	}

	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(newCollector(owner.Daemon()))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			told[f.GetName()] += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	if told["blockd_volume_replicas"] != 3 || told["blockd_volume_owned"] != 1 || told["blockd_network_peer_up"] != 2 || told["blockd_volume_leases"] != 1 ||
		told["blockd_volume_owner_requests_total"] == 0 || told["blockd_network_link_packets_total"] == 0 {
		t.Errorf("metrics: %v", told)
	}

	// It grows.
	if _, err := blockdv1connect.NewVolumeServiceClient(a.client(), nodes[1].url()).ResizeVolume(t.Context(),
		connect.NewRequest(&blockdv1.ResizeVolumeRequest{Name: "v", SizeBytes: 256 << 20})); err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes {
		until(t, n.cfg.Name+" has grown it", func() bool { return volumeDevice(t, n.Daemon(), "v").Geometry().SizeBytes == 256<<20 })
	}
	write(nodes[2], 255<<20, 9)
	read(nodes[0], 255<<20, 9)

	// A planned stop of the owner: the others go on where it has ended, also with
	// requests that still come to it.
	for _, n := range nodes {
		if n != owner {
			elect(t, n)
			break
		}
	}
	owner = ownerOf(t, nodes, id) // a change of leader that takes long moves volumes
	owner.Daemon().shared.Load().leave(t.Context())
	if owner.Daemon().shared.Load().sharedVolume(id).Status().Forward == "" {
		t.Error("the owner has left, and requests wait there")
	}
	elect(t, owner)
	owner.Daemon().leave(t.Context())
	until(t, "a node that has left does not lead", func() bool { _, leads := owner.Daemon().plane.group.Leads(); return !leads })
	write(owner, 8192, 8)
	owner.stop()
	rest := make([]*testNode, 0, 2)
	for _, n := range nodes {
		if n != owner {
			rest = append(rest, n)
		}
	}
	write(rest[0], 0, 7)
	read(rest[1], 0, 7)
	read(rest[1], 8192, 8)
	read(rest[1], 1<<20+512, 2)
	next := ownerOf(t, rest, id)
	if next == owner {
		t.Fatal("the owner has not changed")
	}

	// It comes back, and gets what it has missed.
	owner.start()
	until(t, "three copies are in sync", func() bool { return inSync(next, id) == 3 })
	read(owner, 0, 7)

	r, err := blockdv1connect.NewVolumeServiceClient(a.client(), next.url()).DeleteVolume(t.Context(), connect.NewRequest(&blockdv1.DeleteVolumeRequest{Name: "v"}))
	if err != nil {
		t.Fatal(r, err)
	}
	until(t, "nothing is left on the disks", func() bool {
		for _, n := range nodes {
			if n.Daemon().disks[0].store.Stats().Volumes != 0 {
				return false
			}
		}
		return true
	})
}

// Reservations of a volume of several copies hold on every node: a host that is
// preempted through one can't write through another when the command has answered.
func TestReservationsHoldOnAllNodes(t *testing.T) {
	t.Parallel()
	a, nodes := threeNodes(t)
	id := sharedVolumeOn(t, a, nodes, "v")
	host := func(i int) reservation.Identity {
		return reservation.NVMe(fmt.Sprintf("nqn.2026-01.example:host%d", i), [16]byte{byte(i + 1)})
	}
	apply := func(n int, c reservation.Command) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
		defer cancel()
		res, err := nodes[n].Daemon().reservations.Apply(ctx, reservation.VolumeID(id), &c)
		if err != nil || res.Status != reservation.StatusOK {
			t.Fatalf("%v on %s: %v, %v", c.Op, nodes[n].cfg.Name, res.Status, err)
		}
	}
	allowed := func(n, h int) bool {
		t.Helper()
		v, err := nodes[n].Daemon().reservations.Volume(reservation.VolumeID(id))
		if err != nil {
			t.Fatal(err)
		}
		who := host(h)
		return v.Allows(&who, reservation.AccessWrite)
	}
	apply(0, reservation.Command{Op: reservation.OpHostRegister, From: host(0), NewKey: 1})
	apply(1, reservation.Command{Op: reservation.OpHostRegister, From: host(1), NewKey: 2})
	apply(0, reservation.Command{Op: reservation.OpReserve, From: host(0), Key: 1, Type: reservation.TypeWriteExclusiveRegistrantsOnly})
	for n := range nodes {
		if !allowed(n, 0) || !allowed(n, 1) || allowed(n, 2) {
			t.Errorf("%s: two hosts are registered, and it lets in %v %v %v", nodes[n].cfg.Name, allowed(n, 0), allowed(n, 1), allowed(n, 2))
		}
	}
	apply(2, reservation.Command{Op: reservation.OpHostRegister, From: host(2), NewKey: 3})
	apply(2, reservation.Command{Op: reservation.OpPreempt, From: host(2), Key: 3, NewKey: 1, Type: reservation.TypeWriteExclusiveRegistrantsOnly})
	for n := range nodes {
		if allowed(n, 0) || !allowed(n, 2) {
			t.Errorf("%s lets the preempted host write", nodes[n].cfg.Name)
		}
	}

	// While no node can read who is fenced, none shows the volume to hosts.
	write := func(blob []byte) {
		t.Helper()
		d := nodes[0].Daemon()
		_, err := d.do(nil, &catalogpb.Command{Kind: &catalogpb.Command_SetReservation{SetReservation: &catalogpb.SetReservation{
			Volume: id[:], ExpectGeneration: d.catalog.State().Reservation(id).Generation, Blob: blob}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	shows := func(want string) {
		t.Helper()
		for _, n := range nodes {
			d := n.Daemon()
			until(t, n.cfg.Name+" says "+want, func() bool {
				state, reason := d.volumeState(d.catalog.State().VolumeByID(id))
				return state == want && (want == "online" || strings.Contains(reason, "update this one"))
			})
			if _, ok := d.shown(d.catalog.State().VolumeByID(id)); ok != (want == "online") {
				t.Errorf("%s says %s, and shows the volume to hosts: %v", n.cfg.Name, want, ok)
			}
		}
	}
	write([]byte("of a version that is unknown"))
	shows("failed")
	write(nil)
	shows("online")
}

// moveLease has a node own a volume.
func moveLease(t *testing.T, a admin, nodes []*testNode, name string, to *testNode) {
	t.Helper()
	if _, err := blockdv1connect.NewLeaseServiceClient(a.client(), nodes[0].url()).MoveLease(t.Context(),
		connect.NewRequest(&blockdv1.MoveLeaseRequest{Volume: name, To: to.cfg.Name})); err != nil {
		t.Fatal(err)
	}
}

// A node that was not waited for when the reservations changed, since it was down, enforces
// them when it owns the volume, however far its reconciler is; and a node that is taken for down is
// waited for as long as it has the lease.
func TestOwnersEnforceTheReservations(t *testing.T) {
	t.Parallel()
	a, nodes := threeNodes(t)
	id := sharedVolumeOn(t, a, nodes, "v")
	owner := ownerOf(t, nodes, id)
	var next *testNode
	for _, n := range nodes {
		if n != owner {
			next = n
		}
	}
	set := func(n *testNode) {
		t.Helper()
		_, err := n.Daemon().do(nil, &catalogpb.Command{Kind: &catalogpb.Command_SetReservation{SetReservation: &catalogpb.SetReservation{
			Volume: id[:], ExpectGeneration: n.Daemon().catalog.State().Reservation(id).Generation}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	goOn := held(t, &next.Daemon().applied.mu)
	set(owner)
	guard := next.Daemon().shared.Load().sharedVolume(id).guard
	until(t, "the reconciler is busy with that", func() bool { return guard() == 1 })
	set(owner) // of this one it hears later
	until(t, "the node has the catalog", func() bool { return next.Daemon().catalog.State().Reservation(id).Generation == 2 })

	asked := make(chan string, 1)
	ask := func(_ context.Context, n *catalog.Node) error {
		select {
		case asked <- n.Name:
		default:
		}
		return errors.New("it is cut off")
	}
	ctx, cancel := context.WithTimeout(t.Context(), commandTimeout)
	defer cancel()
	enforced := make(chan error, 1)
	go func() { enforced <- reservationLog{next.Daemon()}.ownerEnforces(ctx, id, nil, ask) }()
	select {
	case who := <-asked:
		if who != owner.cfg.Name {
			t.Errorf("%s was asked, and %s owns the volume", who, owner.cfg.Name)
		}
	case err := <-enforced:
		t.Fatalf("while a node that does not answer owns the volume: %v", err)
	}
	moveLease(t, a, nodes, "v", next)
	if err := <-enforced; err != nil {
		t.Error(err)
	}
	if l, _ := next.Daemon().catalog.State().Lease(id); l.Owner != next.Daemon().plane.id() {
		t.Errorf("it was said to be enforced while %s owns the volume", l.Owner)
	}
	until(t, "the node owns the volume", func() bool { return next.Daemon().shared.Load().sharedVolume(id).Status().Owner })
	if g := guard(); g != 2 {
		t.Errorf("it owns the volume, and enforces generation %d", g)
	}
	goOn()
}
