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
	"blockd.dev/raftmeta/director"
)

// Before a node that stops ends its iSCSI sessions it withdraws its volumes from the initiators
// that reach them through other nodes, so that their multipath goes on there at once: see
// scsi.Target.Withdraw. For an initiator without another path that would be an error, where it would have
// waited for this node to come back. So the other nodes are asked, and who can't be asked has none.

// pathsTimeout is how long the other nodes may take to say whom they serve. Hosts wait for nothing meanwhile.
const pathsTimeout = 200 * time.Millisecond

// path is a volume by the portals of a node.
type path struct {
	initiator string
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

// pathsElsewhere are the paths through other nodes to these volumes, of the initiators that have sessions here.
func (d *Daemon) pathsElsewhere(ctx context.Context, volumes []catalog.ID) map[path]bool {
	req := &blockdv1.FindPathsRequest{}
	for _, i := range d.iscsi.Sessions() {
		if !i.Discovery && !slices.Contains(req.Initiators, i.Initiator) {
			req.Initiators = append(req.Initiators, i.Initiator)
		}
	}
	for _, id := range volumes {
		req.Volumes = append(req.Volumes, id[:])
	}
	if len(req.Initiators) == 0 || len(volumes) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, pathsTimeout)
	defer cancel()
	nodes := slices.DeleteFunc(d.reachableNodes(d.catalog.State()), func(n catalog.Node) bool { return !n.Plays(director.RoleTarget) })
	answers := askAround(ctx, d, nodes, func(ctx context.Context, p *control.Peer) ([][]byte, error) {
		r, err := blockdv1connect.NewPeerServiceClient(p, p.URL).FindPaths(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetReached(), nil
	})
	out := map[path]bool{}
	for _, a := range answers {
		for i, bits := range a.value[:min(len(a.value), len(req.Initiators))] {
			for j := range volumes[:min(len(volumes), 8*len(bits))] {
				if bits[j/8]>>(j%8)&1 != 0 {
					out[path{req.Initiators[i], volumes[j]}] = true
				}
			}
		}
	}
	return out
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
	d.target.EachTended(func(initiator string, volume [16]byte) {
		i, asked := initiators[initiator]
		j, served := volumes[volume]
		if asked && served {
			r.Reached[i][j/8] |= 1 << (j % 8)
		}
	})
	return connect.NewResponse(r), nil
}
