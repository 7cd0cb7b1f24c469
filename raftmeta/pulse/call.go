package pulse

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/control"
	"blockd.dev/raftmeta/group"
)

// ErrNotLeading is what a Server answers that does not lead the group.
var ErrNotLeading = errors.New("this node does not lead the group; the pulse goes to the one that does")

// Server answers pulses: *director.Director.
type Server interface {
	// Pulse answers a pulse of the node from, whose certificate was checked.
	// ErrNotLeading when this node does not lead.
	Pulse(ctx context.Context, from string, req *blockdv1.PulseRequest) (*blockdv1.PulseResponse, error)
}

// Caller returns a Config.Call: pulses of the node self go to local while that
// leads, else over the network. peers may be nil on a node that is alone.
func Caller(self string, local Server, peers *control.Peers) func(context.Context, group.Leader, *blockdv1.PulseRequest) (*blockdv1.PulseResponse, error) {
	return func(ctx context.Context, leader group.Leader, req *blockdv1.PulseRequest) (*blockdv1.PulseResponse, error) {
		switch {
		case leader.ID == self:
			return local.Pulse(ctx, self, req)
		case peers == nil:
			return nil, fmt.Errorf("pulse: node %s leads, and this node has no certificate to ask it with", leader.ID)
		}
		peer := peers.At(leader.ID, leader.Address)
		res, err := blockdv1connect.NewPulseServiceClient(peer, peer.URL).Pulse(ctx, connect.NewRequest(req))
		if err != nil {
			return nil, fmt.Errorf("pulse to node %s at %s: %w", leader.ID, leader.Address, err)
		}
		return res.Msg, nil
	}
}

// Serve returns the RPC service for s. Its handler needs control.Interceptor,
// and a server that has control.ConnContext.
func Serve(s Server) blockdv1connect.PulseServiceHandler { return service{s} }

type service struct{ s Server }

// Pulse implements blockdv1connect.PulseServiceHandler.
func (s service) Pulse(ctx context.Context, req *connect.Request[blockdv1.PulseRequest]) (*connect.Response[blockdv1.PulseResponse], error) {
	from := control.From(ctx).Node
	if from == "" || from != req.Msg.GetNode() {
		return nil, connect.NewError(connect.CodePermissionDenied, fmt.Errorf("node %q sends the pulse of node %q; a node speaks for itself", from, req.Msg.GetNode()))
	}
	res, err := s.s.Pulse(ctx, from, req.Msg)
	switch {
	case errors.Is(err, ErrNotLeading):
		return nil, connect.NewError(connect.CodeFailedPrecondition, err)
	case err != nil:
		return nil, connect.NewError(connect.CodeUnavailable, err)
	}
	return connect.NewResponse(res), nil
}
