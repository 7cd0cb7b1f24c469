package replica

import "cmp"

// Version says which write a region took last. Seq grows within a volume,
// also from owner to owner; Epoch tells apart what two owners may both have
// numbered the same. The zero Version is that of a region never written.
type Version struct{ Epoch, Seq uint64 }

// NoVersion marks a region that has taken a write while others were missing
// there: it must be copied, and equals no version, not even itself.
var NoVersion = Version{^uint64(0), ^uint64(0)}

// Same tells whether regions of the versions v and w have the same content.
func (v Version) Same(w Version) bool { return v == w && v != NoVersion }

// Compare orders versions by epoch, then sequence. Only for writes: which of
// two regions is newer is never decided by it.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Epoch, w.Epoch), cmp.Compare(v.Seq, w.Seq))
}

// Entry is one write of the tail: a write which not every in-sync replica is
// known to have. Off and Len are bytes.
type Entry struct {
	Ver      Version
	Off, Len int64
}

// Kind says what a Request asks for.
type Kind uint8

// The kinds of Request. Fence begins a session; everything else belongs to one.
const (
	Fence    Kind = iota + 1 // refuse older epochs and sessions; get ready for Arriving; answer with the tail
	Write                    // Data at Off, version Ver; durable when answered
	Read                     // Len bytes at Off, and the versions of the regions touched
	Stable                   // only carries the watermark
	Versions                 // versions of the regions in [Off, Off+Len)
	Begin                    // rebuild generation Gen starts; nothing is clean
	Confirm                  // regions from Off on whose version is that in Vers become clean; the answer has the others
	Copy                     // Data is whole regions, with version Ver, or Vers if they are several; they become clean. Those of zeroes are holes; without Data all are
	Clear                    // Len bytes at Off become a hole, which reads as zeroes; else like Write
	Zero                     // Len bytes at Off become zeroes that keep their space; else like Write
	Vouch                    // what is there was held against other replicas, or copied from them: it is not unproven, durably, as the watermark is then. Only to one that Vouches
)

// Changes tells whether a request of this kind is one of the writes that the
// owner gives a version and that the tail has.
func (k Kind) Changes() bool { return k == Write || k == Clear || k == Zero }

// Request is what an owner asks of a replica. The replica keeps Data until it
// has answered and does not change it.
type Request struct {
	ID      uint64 // grows from request to request; the answer has it too
	Oldest  uint64 // the owner waits for no answer in this session to a lower ID
	Kind    Kind
	Epoch   uint64 // of the owner's lease
	Session uint64 // grows with each connection of an owner to this replica
	Boot    uint64 // the replica's, from the answer to Fence; not in Fence
	Stable  uint64 // every write up to this sequence number is on every replica in the session
	Gen     uint64 // rebuild generation; 0 for what the replica has all of. Fence: that of Arriving
	Off     int64  // bytes, multiple of the block size
	Len     int64  // bytes, multiple of the block size
	Ver     Version
	Vers    []Version
	Data    []byte
	// Arriving are the extents that are moved to this replica, in a Fence. Gen is
	// the first epoch whose owner could know of all of them: a replica that was
	// not fenced since clears what it has there.
	Arriving []Range
}

// Range is a part of a volume, in bytes: whole regions.
type Range struct{ Off, Len int64 }

// Status says how a request ended.
type Status uint8

// The statuses. A request that is not answered may have been done or not.
const (
	OK         Status = iota + 1
	OldEpoch          // there is a newer owner; Response.Epoch is its epoch
	OldSession        // the request's session, boot or generation is over
	Medium            // the data, or the versions, can't be read
	Failed            // the store has failed and takes no more writes
	NoSpace           // the disk is full: nothing was changed, and the replica goes on
)

// Response is the answer to the Request of the same ID.
type Response struct {
	ID     uint64
	Status Status
	Epoch  uint64
	Boot   uint64
	Stable uint64 // Fence
	// Last is, after Fence, the highest sequence number seen. In any other answer that came over the
	// network it is how long the replica's node had the request, in nanoseconds; 0 is not told, as by
	// nodes of older versions.
	Last uint64
	// Hosts says, in an answer that came over the network, that hosts use the replica's node: what is copied there for
	// other volumes gives way to them. Nodes of older versions say nothing.
	Hosts bool
	Tail  []Entry   // Fence; the receiver owns it
	Data  []byte    // Read; the receiver owns it. None, though bytes were asked for, is zeroes
	Vers  []Version // Read, Versions: one per region touched
	// Differ has the byte offsets of the regions that are not clean, after Confirm. After Fence
	// it has one number, the most bytes that a Copy may be about; none means one region.
	Differ []int64
	// Unproven says, after Fence, that the machine of the disk went down, not by a shutdown, and what it kept was
	// not vouched for since: the disk may have lost what it had said to be durable. Vouches, after Fence, that the
	// replica knows Vouch; those of older versions don't, and are never Unproven.
	Unproven bool
	Vouches  bool
}
