package lease

// Renewal is what an owner sends to the leader for all of its leases at once.
type Renewal struct {
	Node        string
	Incarnation uint64
	Number      uint64 // counts the renewals of this incarnation
	Claims      []Claim
}

// Claim names one lease.
type Claim struct {
	Volume VolumeID
	Epoch  uint64
}

// Answer is what the leader answers.
type Answer struct {
	Number  uint64    // of the Renewal
	Renewed []Verdict // one per claim, in their order
}

// Verdict is the answer to one claim.
type Verdict uint8

// The verdicts.
const (
	// Later: nothing changes; ask again. The leader has not applied the grant
	// yet, or a change of the lease is on its way.
	Later Verdict = iota
	// Refused: the lease is not the claimant's any more and never will be.
	Refused
	// Renewed: the lease lasts Duration from the reading before the renewal was sent.
	Renewed
	// Recalled is Renewed, and the owner is asked to give the lease back soon:
	// to stop accepting requests, end those it has, and release.
	Recalled
)

// Release tells the leader that an owner has stopped serving a volume and
// never begins again in this epoch. The leader need not wait for the lease's end.
type Release struct {
	Node        string
	Incarnation uint64
	Volume      VolumeID
	Epoch       uint64
}
