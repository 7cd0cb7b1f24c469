package daemon

import (
	"context"
	"fmt"
	"slices"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/control"
)

// Before a node that stops ends its iSCSI sessions it withdraws its volumes from the initiators
// that reach them through other nodes, so that their multipath goes on there at once: see
// scsi.Target.Withdraw. For an initiator without another path that would be an error, where it would have
// waited for this node to come back. So the other nodes are asked, and who can't be asked has none.

// pathsTimeout is how long the other nodes may take to say whom they serve. Hosts wait for nothing meanwhile.
const pathsTimeout = 200 * time.Millisecond

// path is a volume by the portals of a node.
type path struct {
	initiator string // IQN, or NQN
	volume    catalog.ID
}

// moveHosts has initiators go on by other nodes, and returns when they have, as far as that can be
// seen, or a third of the time until ctx's deadline has passed: the rest is for those that are to log out.
func (d *Daemon) moveHosts(ctx context.Context) {
	s := d.shared.Load()
	if s == nil || d.target == nil {
		return
	}
	elsewhere := d.pathsElsewhere(ctx, s.takenOver())
	if len(elsewhere) == 0 {
		return
	}
	began := time.Now()
	w := d.target.Withdraw(func(initiator string, volume [16]byte) bool { return elsewhere[path{initiator, volume}] })
	ctx, cancel := context.WithTimeout(ctx, leftOf(ctx)/3)
	defer cancel()
	for rest := w.Rest(); rest > 0 && ctx.Err() == nil; rest = w.Rest() {
		select {
		case <-time.After(rest):
		case <-ctx.Done():
		}
	}
	d.events.add(levelInfo, "session.moved", d.nodeName(),
		fmt.Sprintf("%d paths of iSCSI hosts were withdrawn, and their sessions end %v later; %d are in use still",
			w.Units(), time.Since(began).Round(time.Millisecond), w.Left()))
}

// takenOver are the volumes that have an owner elsewhere, to whom this node sends their requests.
func (s *sharing) takenOver() (out []catalog.ID) {
	for _, v := range s.all() {
		if v.Status().Forward != "" {
			out = append(out, v.id)
		}
	}
	return out
}

// pathsElsewhere are the paths through other nodes to these volumes, of the hosts that are connected here.
func (d *Daemon) pathsElsewhere(ctx context.Context, volumes []catalog.ID) map[path]bool {
	out := map[path]bool{}
	for _, a := range d.askForPaths(ctx, volumes) {
		for _, p := range a.value {
			out[p] = true
		}
	}
	return out
}

// askForPaths asks every other node that is not known to be gone for the paths through it to these volumes, of the
// hosts that are connected here; nobody if there are none.
func (d *Daemon) askForPaths(ctx context.Context, volumes []catalog.ID) []peerAnswer[[]path] {
	req := &blockdv1.FindPathsRequest{Initiators: d.hostNames()}
	for _, id := range volumes {
		req.Volumes = append(req.Volumes, id[:])
	}
	if len(req.Initiators) == 0 || len(volumes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pathsTimeout)
	defer cancel()
	return askAround(ctx, d, d.reachableNodes(d.catalog.State()), func(ctx context.Context, p *control.Peer) (out []path, _ error) {
		r, err := blockdv1connect.NewPeerServiceClient(p, p.URL).FindPaths(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, err
		}
		reached := r.Msg.GetReached()
		for i, bits := range reached[:min(len(reached), len(req.Initiators))] {
			for j := range volumes[:min(len(volumes), 8*len(bits))] {
				if bits[j/8]>>(j%8)&1 != 0 {
					out = append(out, path{req.Initiators[i], volumes[j]})
				}
			}
		}
		return out, nil
	})
}

// hostNames are the names, IQN or NQN, of the hosts that are connected here.
func (d *Daemon) hostNames() (out []string) {
	for _, i := range d.iscsi.Sessions() {
		if !i.Discovery {
			out = append(out, i.Initiator)
		}
	}
	if d.nvme.subsystem != nil {
		for _, c := range d.nvme.subsystem.Controllers() {
			if !c.Discovery {
				out = append(out, c.HostNQN)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// FindPaths implements blockdv1connect.PeerServiceHandler.
func (a api) FindPaths(_ context.Context, req *connect.Request[blockdv1.FindPathsRequest]) (*connect.Response[blockdv1.FindPathsResponse], error) {
	r := &blockdv1.FindPathsResponse{}
	d, s := a.d, a.d.shared.Load()
	if s == nil || d.target == nil || !d.ready.Load() {
		return connect.NewResponse(r), nil
	}
	initiators := map[string]int{}
	for i, name := range req.Msg.GetInitiators() {
		initiators[name] = i
		r.Reached = append(r.Reached, make([]byte, (len(req.Msg.GetVolumes())+7)/8))
	}
	volumes := map[catalog.ID]int{}
	for i, b := range req.Msg.GetVolumes() {
		id := parseVolume(b)
		if v := s.sharedVolume(id); v != nil {
			if st := v.Status(); st.Owner || st.Forward != "" {
				volumes[id] = i
			}
		}
	}
	reached := func(initiator string, volume [16]byte) {
		i, asked := initiators[initiator]
		j, served := volumes[volume]
		if asked && served {
			r.Reached[i][j/8] |= 1 << (j % 8)
		}
	}
	d.target.EachTended(reached)
	if d.nvme.subsystem != nil {
		d.nvme.subsystem.EachPath(reached)
	}
	return connect.NewResponse(r), nil
}
