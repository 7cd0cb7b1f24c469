package daemon

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/control"
)

// A node that is lost for good can't remove the data of its volumes, which is
// what a deleted volume waits for. So whoever removes such a node by force gives
// its volumes up: each is deleted and forgotten by commands of its own, and so
// has its entries in the audit log, and then the node is removed. What stops
// between two of them has lost nothing else, and the same request goes on from there.

// giveUp forgets the volumes of a node that is to be removed by force, and returns in words
// what it has forgotten, or would when dry. It does nothing unless volumes are
// what keeps remove, the command of the request, from being carried out.
// A node that is up, or of which that is not known, is refused.
func (a api) giveUp(ctx context.Context, by *caller, remove *catalogpb.Command, dry bool) ([]string, error) {
	a.d.sign(by, remove)
	_, refusal := a.d.catalog.DryRun(ctx, remove)
	s := a.d.catalog.State()
	n := s.Node(remove.GetRemoveNode().GetNode())
	// Without a refusal it can be removed, or this is a request that was carried out before.
	if !errors.Is(refusal, catalog.ErrConflict) || n == nil || len(s.Nodes) == 1 {
		return nil, nil
	}
	if s.ReplicasOn(n.ID) > 0 {
		return nil, nil // it can't be removed whatever is given up, and remove says why
	}
	var lost []catalog.Volume
	for i := range s.Volumes {
		if home := s.NodeOfVolume(&s.Volumes[i]); home != nil && home.ID == n.ID {
			lost = append(lost, s.Volumes[i])
		}
	}
	if len(lost) == 0 {
		return nil, nil
	}
	if err := a.checkDown(ctx, n, refusal); err != nil {
		return nil, err
	}
	var words []string
	for i := range lost {
		if !dry {
			if err := a.forgetVolume(ctx, by, &lost[i]); err != nil {
				return nil, err
			}
		}
		words = append(words, fmt.Sprintf("volume %s of %d bytes is forgotten; nothing but node %s had its data", lost[i].Name, lost[i].SizeBytes, n.Name))
	}
	for i := range s.Disks {
		if d := &s.Disks[i]; d.Node == n.ID {
			words = append(words, fmt.Sprintf("disk %s, %s of node %s, is forgotten", d.ID, d.Path, n.Name))
		}
	}
	return words, nil
}

// checkDown returns an error that begins with refusal unless a node is down: the leader has not
// heard it for a while, and it does not answer this node either. The second
// counts right after an election, when the leader has not heard anybody.
func (a api) checkDown(ctx context.Context, n *catalog.Node, refusal error) error {
	r, err := a.GetCluster(ctx, connect.NewRequest(&blockdv1.GetClusterRequest{Linearizable: true}))
	if err != nil {
		return err
	}
	state := "unknown"
	for _, m := range r.Msg.GetCluster().GetMembers() {
		if m.GetId() == n.ID.String() {
			state = m.GetState()
		}
	}
	if state == "down" {
		answer := askAround(ctx, a.d, []catalog.Node{*n}, func(ctx context.Context, p *control.Peer) (*blockdv1.ListNodesResponse, error) {
			r, err := blockdv1connect.NewNodeServiceClient(p, p.URL).ListNodes(ctx, connect.NewRequest(&blockdv1.ListNodesRequest{}))
			if err != nil {
				return nil, err
			}
			return r.Msg, nil
		})[0]
		if answer.err != nil {
			return nil
		}
		state = "up"
	}
	return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("%w; only of a node that is down are they given up, and this one is %s", refusal, state))
}

// forgetVolume deletes a volume and does not wait for its node.
func (a api) forgetVolume(ctx context.Context, by *caller, v *catalog.Volume) error {
	// The request's id is that of the node's removal.
	each := by.beside()
	if !v.Retired {
		_, err := a.d.doContext(ctx, each, &catalogpb.Command{Kind: &catalogpb.Command_RetireVolume{RetireVolume: &catalogpb.RetireVolume{Name: v.Name}}})
		if err != nil && !errors.Is(err, catalog.ErrNotFound) {
			return apiError(err)
		}
	}
	_, err := a.change(ctx, each, &catalogpb.Command{Kind: &catalogpb.Command_RemoveVolume{RemoveVolume: &catalogpb.RemoveVolume{Id: v.ID[:]}}})
	if err != nil && !errors.Is(err, catalog.ErrNotFound) { // its node was faster
		return err
	}
	return nil
}
