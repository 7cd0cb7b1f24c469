// Package mutation names the mistakes that an implementation of the protocol
// could make, and plants them where the build tag "mutations" asks for it, so
// that the simulation can prove that it finds each. Without the tag On is a
// constant false, and the compiler deletes what stands behind it.
//
// Sections of docs/REPLICATION.md argue why each rule is needed.
package mutation

// M is one mistake.
type M int

// The mistakes. None is the protocol as it should be.
const (
	None              M = iota
	SkipFence           // a store takes requests of epochs older than the newest
	AckBeforeMarkOut    // an owner does without a replica before Raft agreed
	ServeAfterLease     // an owner never looks at its clock
	NoWriteBarrier      // resync copies a region without holding its lock
	ForgetTail          // a store forgets the unstable writes when it restarts
	BareKeepsVersion    // a bare write to an unclean region keeps the version
	AcceptOldSession    // a store takes requests of sessions that have ended
	AckBelowMin         // an owner acknowledges with too few copies
	ExposeUnstable      // a read does not wait for an overlapping write
	MarkInLate          // a replica is required only once MarkIn is known to be committed
	SkipOldLeaseWait    // takeover does not wait out a lease that it could not fence
	KeepTailVersions    // resync trusts the versions of regions with unstable writes
	TakeTwice           // a store takes a doubled request twice
	BeginTakesStable    // the watermark in Begin shortens the tail
	LateMarkIn          // Meta does not look at the generation
	ClearKeepsVersion   // a clear of part of an unclean region keeps the version
	SkipHoles           // the copy of a hole leaves what is there
	MinOfVolume         // min_in_sync is judged over the volume, not the extent
	LastOfVolume        // MarkOut is refused for the last in sync of the volume, not of each extent
	DrainInFlight       // a drain is over before the writes in flight are
	StableInTakeover    // a replica is told the watermark while extents of it are being taken over
	GrowOnStale         // new extents are put on disks that are not in sync
	ScrubTakesFirst     // a scrub takes what the first replica has for right
	PaceForEver         // resync waits until the hosts are fast enough
	RefusedStays        // a write that a full disk has refused stays on the others
	RefusedInRebuild    // a write that a full disk has refused in a rebuild is forgotten
	UndoWithoutPlace    // the watermark passes a write that is being undone
	OutBelowMin         // an owner that serves marks out whoever does not answer, down to itself
	FinishEarly         // a move is finished before what arrives is there
	FinishLate          // the target of a move is required only once the end of the move is known
	BareArrival         // a bare write to what arrives keeps the version of an unclean region
	StaleArrival        // what a disk has from before a move is trusted
	TrustArrivedTail    // a session trusts versions of arriving regions with unstable writes
	ReadAfterMove       // a new owner serves while an old lease may read the disk that an extent has left
	MarkAfterFinish     // an owner whose moves were finished may still mark replicas
	FinishUnknown       // an owner may finish moves that it began without
	ArrivalHolds        // a takeover takes the tail of what arrives for that of the set
	CopyEarly           // a copy of several regions is answered when the first is there
	HangsForEver        // a replica that answers reads keeps its session though its writes hang
	UnprovenCounts      // an unproven replica counts for a proven one
	ProofNotAsked       // a replica that has lost copies counts like others
	LoneDecides         // one that is unproven may be the last one of a takeover though others are missing
	ComparedLate        // versions are compared after the takeover has written regions again
	UnprovenLetIn       // an owner that serves lets an unproven replica in
	VouchedEarly        // a replica is vouched for before it was held against others
	UnheardCounts       // a replica that was not heard of lately counts when others are marked out
	ToldBefore          // what proves that all is there was told to the replica before it was
	UnsureSource        // what an unproven replica has is taken where others can't read or write
	RefusedIsLost       // a disk is told to have lost what it had no space for
	OutIsLost           // a disk is told to have lost what was written while its replica was out
	Count
)

var names = [Count]string{
	"none", "skip the fence", "acknowledge before MarkOut commits", "serve after the lease ended",
	"resync without the write barrier", "forget the unstable tail", "bare write keeps the version of an unclean region",
	"accept an old session", "acknowledge below min_in_sync", "expose unstable data to reads",
	"MarkIn not required until committed", "do not wait out the old lease", "trust versions of regions with unstable writes",
	"take a doubled request twice", "Begin carries a watermark", "Meta ignores the generation of a proposal",
	"a clear keeps the version of an unclean region", "the copy of a hole leaves what is there",
	"min_in_sync judged over the volume", "the last in sync of an extent may be marked out",
	"a drain gives up before writes in flight end", "watermark told during the takeover of other extents",
	"new extents on disks that are not in sync", "a scrub takes what the first replica has", "resync waits for fast hosts for ever",
	"a write that a full disk has refused stays on the others", "a write that was refused in a rebuild is forgotten", "the watermark passes a write that is being undone",
	"an owner marks out down to the last one",
	"a move is finished before what arrives is there", "the target of a move is not required until the end of the move is known",
	"a bare write to what arrives keeps the version of an unclean region", "what a disk has from before a move is trusted",
	"versions of arriving regions with unstable writes are trusted", "an old lease may read the disk that an extent has left",
	"an owner whose moves were finished may still mark replicas", "an owner finishes moves that it does not know",
	"a takeover takes the tail of what arrives for that of the set", "a copy of several regions is answered when the first is there",
	"a replica that answers reads keeps its session though its writes hang",
	"an unproven replica counts for a proven one", "a replica that has lost copies counts like others", "a lone unproven replica decides",
	"versions are compared after repairs", "an owner that serves lets an unproven replica in", "a replica is vouched for before it is compared",
	"a replica that was not heard of counts when others are marked out", "the proof that all was copied was told before", "what an unproven replica has is taken where others can't read or write",
	"a disk is told to have lost what it had no space for", "a disk is told to have lost what was written while it was out",
}

// String says what the mistake is.
func (m M) String() string { return names[m] }
