package pulse

import (
	"fmt"
	"time"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/lease"
	"blockd.dev/raftmeta/membership"
)

// NodeView is how the leader sees a node.
type NodeView struct {
	Node        string
	State       membership.State
	Reason      string        // for the state, in words; may be empty
	Since       time.Time     // of the state; zero when it is not known
	RTT         time.Duration // of its pulses, with the leader's question to the voters; 0: not known
	Incarnation uint64        // 0: this leader has not heard of it
	Leaving     bool          // it wants no leases
}

// ToWire is the form of a view in messages.
func (v *NodeView) ToWire() *blockdv1.NodeLife {
	out := &blockdv1.NodeLife{Node: v.Node, State: v.State.String(), Reason: v.Reason, RttNano: int64(v.RTT), Incarnation: v.Incarnation, Leaving: v.Leaving}
	if !v.Since.IsZero() {
		out.SinceUnixNano = v.Since.UnixNano()
	}
	return out
}

func viewFrom(m *blockdv1.NodeLife) NodeView {
	v := NodeView{Node: m.GetNode(), State: membership.Left, Reason: m.GetReason(), RTT: time.Duration(m.GetRttNano()), Incarnation: m.GetIncarnation(), Leaving: m.GetLeaving()}
	for s := membership.Joining; s < membership.Left; s++ {
		if s.String() == m.GetState() {
			v.State = s
		}
	}
	if m.GetSinceUnixNano() != 0 {
		v.Since = time.Unix(0, m.GetSinceUnixNano())
	}
	return v
}

var opinionWords = map[membership.Opinion]string{membership.Hears: "hears", membership.Silent: "silent", membership.Died: "died"}

// Opinion reads the word for an opinion; ok is false for one that is not known here.
func Opinion(word string) (o membership.Opinion, ok bool) {
	for o, w := range opinionWords {
		if w == word {
			return o, true
		}
	}
	return 0, false
}

// Claims reads leases of a message.
func Claims(list []*blockdv1.LeaseClaim) ([]lease.Claim, error) {
	out := make([]lease.Claim, 0, len(list))
	for _, c := range list {
		if len(c.GetVolume()) != len(lease.VolumeID{}) || c.GetEpoch() == 0 {
			return nil, fmt.Errorf("pulse: a lease of a volume with an identifier of %d bytes, epoch %d: 16 bytes and an epoch from 1 on are needed", len(c.GetVolume()), c.GetEpoch())
		}
		out = append(out, lease.Claim{Volume: lease.VolumeID(c.GetVolume()), Epoch: c.GetEpoch()})
	}
	return out, nil
}

func claimTo(v lease.VolumeID, epoch uint64) *blockdv1.LeaseClaim {
	return &blockdv1.LeaseClaim{Volume: v[:], Epoch: epoch}
}
