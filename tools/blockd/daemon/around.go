package daemon

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/control"
	"blockd.dev/raftmeta/membership"
	"blockd.dev/raftmeta/pulse"
)

// The catalog says what should be, and each node knows how it is with what it
// serves. So a node that is asked for all asks the others.

const (
	// aroundTimeout is how long another node may take to answer.
	aroundTimeout = 2 * time.Second
	// silentTimeout is how long one may that the cluster has not heard for a while. Without this each change and
	// each list would wait for a machine that is gone.
	silentTimeout = 250 * time.Millisecond
)

// others are the other nodes to ask for a request; none for one that is itself
// of another node.
func (a api) others(s *catalog.State, req connect.AnyRequest) []catalog.Node {
	if _, own := control.Own(req); own || a.d.plane.peers == nil {
		return nil
	}
	return a.d.otherNodes(s)
}

// otherNodes are all nodes of the cluster but this one.
func (d *Daemon) otherNodes(s *catalog.State) []catalog.Node {
	return slices.DeleteFunc(slices.Clone(s.Nodes), func(n catalog.Node) bool { return n.ID == d.plane.id() })
}

// reachableNodes are those of the others that may be serving hosts.
func (d *Daemon) reachableNodes(s *catalog.State) []catalog.Node {
	return slices.DeleteFunc(d.otherNodes(s), func(n catalog.Node) bool { return !d.shared.Load().reachable(n.ID) })
}

// peerAnswer is what a node has said, or why it has not.
type peerAnswer[T any] struct {
	node  catalog.Node
	value T
	err   error
}

// askAround asks nodes at the same time, and returns their answers in the order of nodes.
func askAround[T any](ctx context.Context, d *Daemon, nodes []catalog.Node, ask func(context.Context, *control.Peer) (T, error)) []peerAnswer[T] {
	out := make([]peerAnswer[T], len(nodes))
	var asking sync.WaitGroup
	for i, n := range nodes {
		asking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, max(answersWithin(d.shared.Load().views(), n.ID), d.cfg.patience))
			defer cancel()
			v, err := ask(ctx, d.plane.peers.At(n.ID.String(), n.Address))
			out[i] = peerAnswer[T]{n, v, err}
		})
	}
	asking.Wait()
	return out
}

// answersWithin is how long a node may take to answer that the leader sees as views say.
func answersWithin(views []pulse.NodeView, id catalog.ID) time.Duration {
	for _, v := range views {
		if v.Node == id.String() && (v.State == membership.Suspect || v.State == membership.Down) {
			return silentTimeout
		}
	}
	return aroundTimeout
}

// spread waits until the other nodes are what the catalog says at revision, so that a
// host finds the same at all of them when the change is answered. A node
// that does not answer in time follows when it can.
func (d *Daemon) spread(ctx context.Context, revision uint64) {
	if d.plane.peers == nil {
		return
	}
	askAround(control.AtRevision(ctx, revision), d, d.reachableNodes(d.catalog.State()), func(ctx context.Context, p *control.Peer) (struct{}, error) {
		_, err := blockdv1connect.NewPoolServiceClient(p, p.URL).GetPool(ctx, connect.NewRequest(&blockdv1.GetPoolRequest{Name: catalog.DefaultPool}))
		return struct{}{}, err
	})
}

// shared reports whether a volume has copies on several nodes, and so is served by all.
func shared(s *catalog.State, v *catalog.Volume) bool { return s.Map().Volume(v.ID) != nil }

// serves reports whether hosts reach a volume through this node: it holds the
// data, or the volume has copies on several nodes. A
// volume without a home is one from before nodes were known, and of this node.
func (d *Daemon) serves(s *catalog.State, v *catalog.Volume) bool {
	if shared(s, v) {
		return d.shared.Load() != nil && d.cfg.has("target")
	}
	n := s.NodeOfVolume(v)
	return n == nil && d.plane.creds == nil || n != nil && n.ID == d.plane.id()
}

// volumeNow is a volume with its state as its node tells it, once that node has
// come to revision.
func (a api) volumeNow(ctx context.Context, req connect.AnyRequest, s *catalog.State, v *catalog.Volume, revision uint64) *blockdv1.Volume {
	home := s.NodeOfVolume(v)
	if _, own := control.Own(req); own || home == nil || a.d.serves(s, v) || a.d.plane.peers == nil {
		return a.volume(s, v)
	}
	answer := askAround(control.AtRevision(ctx, revision), a.d, []catalog.Node{*home}, func(ctx context.Context, p *control.Peer) (*blockdv1.Volume, error) {
		r, err := blockdv1connect.NewVolumeServiceClient(p, p.URL).GetVolume(ctx, connect.NewRequest(&blockdv1.GetVolumeRequest{Name: v.Name}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetVolume(), nil
	})[0]
	if answer.err == nil {
		return answer.value
	}
	out := a.volume(s, v)
	out.State, out.Reason = "unknown", unheard(home, answer.err)
	return out
}

// volumesNow is every volume, with its state as its node tells it.
func (a api) volumesNow(ctx context.Context, req connect.AnyRequest, s *catalog.State) []*blockdv1.Volume {
	told := map[string]*blockdv1.Volume{}
	silent := map[catalog.ID]error{}
	answers := askAround(ctx, a.d, a.others(s, req), func(ctx context.Context, p *control.Peer) ([]*blockdv1.Volume, error) {
		r, err := blockdv1connect.NewVolumeServiceClient(p, p.URL).ListVolumes(ctx, connect.NewRequest(&blockdv1.ListVolumesRequest{}))
		if err != nil {
			return nil, err
		}
		return r.Msg.GetVolumes(), nil
	})
	for _, n := range answers {
		if n.err != nil {
			silent[n.node.ID] = n.err
		}
		for _, v := range n.value {
			told[v.GetId()] = v
		}
	}
	_, own := control.Own(req)
	var out []*blockdv1.Volume
	for i := range s.Volumes {
		v := &s.Volumes[i]
		home := s.NodeOfVolume(v)
		switch there := told[v.ID.String()]; {
		case a.d.serves(s, v):
			out = append(out, a.volume(s, v))
		case own: // the node of the volume tells of it
		case there != nil:
			out = append(out, there)
		default:
			e := a.volume(s, v)
			e.State, e.Reason = "unknown", "it is at no node"
			if home != nil {
				e.Reason = unheard(home, silent[home.ID])
			}
			out = append(out, e)
		}
	}
	return out
}

func unheard(n *catalog.Node, err error) string {
	if err == nil {
		return fmt.Sprintf("node %s, which serves it, does not know it yet", n.Name)
	}
	return fmt.Sprintf("node %s, which serves it, does not answer: %v", n.Name, err)
}

// atRevision makes requests of other nodes wait until this one is what the
// catalog says at the revision that they name.
func (a api) atRevision() connect.UnaryInterceptorFunc {
	return func(next connect.UnaryFunc) connect.UnaryFunc {
		return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
			if revision, own := control.Own(req); own {
				if err := a.d.applied.wait(ctx, revision); err != nil {
					return nil, apiError(err)
				}
			}
			return next(ctx, req)
		}
	}
}
