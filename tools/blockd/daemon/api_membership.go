package daemon

import (
	"context"
	"fmt"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
)

// SetNodeLabels implements blockdv1connect.MembershipServiceHandler.
func (a api) SetNodeLabels(ctx context.Context, req *connect.Request[blockdv1.SetNodeLabelsRequest]) (*connect.Response[blockdv1.SetNodeLabelsResponse], error) {
	m := req.Msg
	cmd := &catalogpb.Command{Kind: &catalogpb.Command_SetNodeLabels{SetNodeLabels: &catalogpb.SetNodeLabels{
		Node: m.GetNode(), Labels: labelList(m.GetLabels())}}}
	changes, err := a.changeOrTry(ctx, callerOf(ctx, req, m.GetRequestId()), cmd, m.GetDryRun())
	if err != nil {
		return nil, err
	}
	n := a.d.catalog.State().Node(m.GetNode())
	if n == nil {
		return nil, noSuch("node", m.GetNode()) // removed meanwhile
	}
	st := a.d.plane.group.Stats()
	return connect.NewResponse(&blockdv1.SetNodeLabelsResponse{Member: a.d.member(n, &st), Changes: changes}), nil
}

// RemoveNode implements blockdv1connect.MembershipServiceHandler.
func (a api) RemoveNode(ctx context.Context, req *connect.Request[blockdv1.RemoveNodeRequest]) (*connect.Response[blockdv1.RemoveNodeResponse], error) {
	m := req.Msg
	n := a.d.catalog.State().Node(m.GetNode())
	cmd := &catalogpb.Command{Kind: &catalogpb.Command_RemoveNode{RemoveNode: &catalogpb.RemoveNode{Node: m.GetNode(), Force: m.GetForce()}}}
	by := callerOf(ctx, req, m.GetRequestId())
	var lost []string
	if m.GetForce() {
		var err error
		if lost, err = a.giveUp(ctx, by, cmd, m.GetDryRun()); err != nil {
			return nil, err
		}
	}
	if len(lost) > 0 && m.GetDryRun() {
		// The catalog refuses the rest while it has the volumes.
		return connect.NewResponse(&blockdv1.RemoveNodeResponse{Changes: append(lost, fmt.Sprintf("node %s is removed, and its certificate revoked", m.GetNode()))}), nil
	}
	changes, err := a.changeOrTry(ctx, by, cmd, m.GetDryRun())
	if err != nil {
		return nil, err
	}
	changes = append(lost, changes...)
	if n != nil && !m.GetDryRun() {
		// The leader does this too, when it sees the change; here the caller waits for it.
		if err := a.d.plane.group.Remove(ctx, n.ID.String()); err != nil {
			return nil, apiError(err)
		}
	}
	return connect.NewResponse(&blockdv1.RemoveNodeResponse{Changes: changes}), nil
}

// changeOrTry runs a command, or only says what it would change.
func (a api) changeOrTry(ctx context.Context, by *caller, cmd *catalogpb.Command, dry bool) ([]string, error) {
	if dry {
		return a.try(ctx, by, cmd)
	}
	res, err := a.change(ctx, by, cmd)
	if err != nil {
		return nil, err
	}
	return []string{changeText(res.Audit)}, nil
}

// try says what a command would change.
func (a api) try(ctx context.Context, by *caller, cmd *catalogpb.Command) ([]string, error) {
	a.d.sign(by, cmd)
	changes, err := a.d.catalog.DryRun(ctx, cmd)
	if err != nil {
		return nil, apiError(err)
	}
	return changes, nil
}

// tried is the response to a request that was only tried.
func tried[T any](m *T, err error) (*connect.Response[T], error) {
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(m), nil
}

func changeText(e catalog.Audit) string {
	if e.Detail == "" {
		return e.Action + " " + e.Subject
	}
	return e.Action + " " + e.Subject + ": " + e.Detail
}
