package volume

import "blockd.dev/internal/clock"

// Sync says how a replica stands.
type Sync uint8

// The states of a replica.
const (
	Out        Sync = iota // it has missed writes
	Rebuilding             // it takes writes and is being compared and copied to
	InSync                 // it has every acknowledged write
)

// Member is the state of one replica. Gen grows with every change but MarkIn,
// so that a proposal that arrives late changes nothing [I10].
type Member struct {
	Sync Sync
	Gen  uint64
	// Proof is the watermark that the replica had made durable when it was last proposed that it has all that
	// was copied to it: one that has a lower one has lost some of that. 0 proves nothing [I15].
	Proof uint64
}

// View is the state of a replica set as of one revision of Meta's log.
type View struct {
	Revision uint64
	Epoch    uint64 // of the newest lease
	Members  []Member
}

// Change is what a Proposal asks for.
type Change uint8

// The changes. Each needs the epoch of the newest lease and the member's
// current Gen, else it is refused. Finish is refused also if moves of the volume
// began or were cancelled in this epoch; after it all others of the epoch are.
const (
	MarkOut        Change = iota + 1 // to Out, Gen+1; refused for the last one in sync
	MarkRebuilding                   // from Out or Rebuilding to Rebuilding, Gen+1
	MarkIn                           // from Rebuilding to InSync
	Keep                             // stays InSync, Gen+1: no MarkOut on its way can happen any more
	Finish                           // all extents that are moved to this member, in sync, are its own now
)

// Proposal is a change that an owner asks of Meta. Meta answers with the View
// after it, or answers never: then the proposal may still happen.
type Proposal struct {
	Change Change
	Disk   int // index of the replica
	Epoch  uint64
	Gen    uint64
	Proof  uint64 // MarkIn, Finish: becomes that of the member, if it is higher
}

// Grant makes an owner.
type Grant struct {
	View  View       // with the epoch of this lease
	Until clock.Mono // the lease ends, by the owner's clock; see Owner.Renew
	Waits clock.Mono // by when every earlier lease has surely ended
	Local int        // replica to prefer for reads, or -1
}
