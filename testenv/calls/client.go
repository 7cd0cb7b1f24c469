package calls

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
)

const (
	// tryFor is how long one node is asked before the next. One that is cut off
	// makes the client wait that long.
	tryFor = 2500 * time.Millisecond
	// triesMax is when a client gives up and leaves the call open.
	triesMax = 40
	// anyHost is whom volumes are mapped to.
	anyHost = "any"
	mib     = 1 << 20
	// sizesMax bounds sizes, in MiB. Volumes don't shrink, so it also says how often one grows.
	sizesMax = 64
)

// node is how a client reaches one.
type node struct {
	name     string
	volumes  blockdv1connect.VolumeServiceClient
	mappings blockdv1connect.MappingServiceClient
	cluster  blockdv1connect.ClusterServiceClient
}

// client makes one call at a time.
type client struct {
	load   *Load
	number int
	rng    *rand.Rand
	calls  int
}

// step makes one call about one volume, and tells whether its answer is known.
func (c *client) step(ctx context.Context) (answered bool) {
	o := Op{Client: c.number, Kind: Kind(c.rng.IntN(int(kinds))), Name: c.load.names[c.rng.IntN(len(c.load.names))], pool: c.load.pool}
	if c.rng.IntN(3) == 0 {
		o.Kind = Read
	}
	o.Size = int64(1+c.rng.IntN(sizesMax)) * mib
	o.Protected = c.rng.IntN(2) == 0
	o.Call = c.load.rec.now()
	if o.Kind == Read {
		n := c.pick(&o)
		o.Answer, o.Seen, _ = n.read(ctx, o.Name)
	} else {
		c.change(ctx, &o)
	}
	c.load.rec.add(o)
	return o.Answer != Open
}

// pick is the node to ask next.
func (c *client) pick(o *Op) *node {
	n := c.load.nodes[c.rng.IntN(len(c.load.nodes))]
	o.Nodes, o.Last = append(o.Nodes, n.name), c.load.rec.now()
	return n
}

// change asks node after node, with one request id, until one says what became of
// it, and sometimes once more after that.
func (c *client) change(ctx context.Context, o *Op) {
	c.calls++
	id := fmt.Sprintf("%s-%d-%d", c.load.id, c.number, c.calls)
	for range triesMax {
		answer, seen, err := c.pick(o).change(ctx, o, id)
		if answer != Open {
			o.Answer, o.Seen = answer, seen
			if c.load.byName {
				o.Seen = Volume{}
			}
			break
		}
		c.load.last.Store(&err)
		if ctx.Err() != nil {
			return
		}
		pass(ctx, pauseBetween)
	}
	if o.Answer != Done || c.rng.IntN(4) != 0 {
		return
	}
	// What was done is not done again. By now the volume may be gone, and that is all
	// that may be said instead.
	if again, _, err := c.pick(o).change(ctx, o, id); again != Open && again != Done && again != None {
		c.load.complain("%s; the same request again: %v, %v", o, again, err)
	}
}

// pauseBetween keeps clients whose calls are refused from asking without end.
const pauseBetween = 10 * time.Millisecond

func pass(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// read learns how far the group is, and what is there then.
func (n *node) read(ctx context.Context, name string) (Answer, Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	if _, err := n.cluster.GetCluster(ctx, connect.NewRequest(&blockdv1.GetClusterRequest{Linearizable: true})); err != nil {
		return Open, Volume{}, err
	}
	r, err := n.volumes.GetVolume(ctx, connect.NewRequest(&blockdv1.GetVolumeRequest{Name: name}))
	switch {
	case connect.CodeOf(err) == connect.CodeNotFound:
		return None, Volume{}, nil
	case err != nil:
		return Open, Volume{}, err
	}
	v := r.Msg.GetVolume()
	return Done, Volume{There: true, Leaving: v.GetState() == "deleting", ID: v.GetId(), Size: v.GetSizeBytes(),
		Protected: v.GetProtection() != "none", Mapped: len(v.GetMappings()) > 0}, nil
}

// change asks for it once. The error is nil, or what the node said.
func (n *node) change(ctx context.Context, o *Op, id string) (answer Answer, seen Volume, err error) {
	ctx, cancel := context.WithTimeout(ctx, tryFor)
	defer cancel()
	switch o.Kind {
	case Create:
		var r *connect.Response[blockdv1.CreateVolumeResponse]
		r, err = n.volumes.CreateVolume(ctx, connect.NewRequest(&blockdv1.CreateVolumeRequest{RequestId: id, Name: o.Name, SizeBytes: o.Size, Pool: o.pool}))
		if err == nil {
			seen.ID = r.Msg.GetVolume().GetId()
		}
	case Delete:
		_, err = n.volumes.DeleteVolume(ctx, connect.NewRequest(&blockdv1.DeleteVolumeRequest{RequestId: id, Name: o.Name}))
	case Resize:
		_, err = n.volumes.ResizeVolume(ctx, connect.NewRequest(&blockdv1.ResizeVolumeRequest{RequestId: id, Name: o.Name, SizeBytes: o.Size}))
	case Protect:
		protection := "none"
		if o.Protected {
			protection = "write-protect"
		}
		_, err = n.volumes.ProtectVolume(ctx, connect.NewRequest(&blockdv1.ProtectVolumeRequest{RequestId: id, Name: o.Name, Protection: protection}))
	case Map:
		_, err = n.mappings.MapVolume(ctx, connect.NewRequest(&blockdv1.MapVolumeRequest{RequestId: id, Volume: o.Name, Host: anyHost}))
		if connect.CodeOf(err) == connect.CodeAborted {
			err = nil // it was mapped, and somebody unmapped it before the answer
		}
	case Unmap:
		_, err = n.mappings.UnmapVolume(ctx, connect.NewRequest(&blockdv1.UnmapVolumeRequest{RequestId: id, Volume: o.Name, Host: anyHost}))
	}
	return answerOf(err), seen, err
}

// answerOf reads an error. What says nothing of the command leaves it open.
func answerOf(err error) Answer {
	if err == nil {
		return Done
	}
	switch connect.CodeOf(err) {
	case connect.CodeNotFound:
		return None
	case connect.CodeAlreadyExists:
		return Exists
	case connect.CodeFailedPrecondition, connect.CodeInvalidArgument:
		return Refused
	}
	return Open
}
