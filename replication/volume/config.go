package volume

import (
	"errors"
	"sync/atomic"
	"time"

	"blockd.dev/internal/clock"
	"blockd.dev/replication/replica"
)

// How an Op can fail. Whether a failed write happened is not known, except
// with ErrMismatch, or when Op.Sent is false: then it did not.
var (
	ErrMismatch = errors.New("the data to compare with differs")
	ErrTimeout  = errors.New("too few replicas answered in time")
	ErrNoSpace  = errors.New("the disk of a replica is full")
	ErrMedium   = errors.New("no replica in sync can read the data")
	ErrNotOwner = errors.New("another node owns the volume, or may own it")
)

// Config is the same for all owners of a volume. All fields are required but
// those that say what zero means.
type Config struct {
	BlockBytes  int64
	RegionBytes int64 // multiple of BlockBytes
	ExtentBytes int64 // multiple of RegionBytes
	VolumeBytes int64 // multiple of ExtentBytes; see Owner.Grow
	MaxData     int64 // bytes that a repair reads and writes at a time, multiple of BlockBytes; 0 is RegionBytes
	MinInSync   int   // copies of an extent needed to acknowledge a write to it

	// Sets returns the members that keep an extent, by index; nil means all
	// of them. It is called once for each extent, by New and Grow.
	Sets func(extent int64) []int

	// Arriving returns the member that an extent is being moved to, or -1; nil
	// means that none is moved. It needs Sets, and is called as that is. ArrivingSince is the first epoch
	// whose owner could know of all these moves.
	Arriving      func(extent int64) int
	ArrivingSince uint64

	OpTimeout      time.Duration // from Submit until a host is told that it failed
	RequestTimeout time.Duration // a replica that owes answers and gives none for longer gets a new session
	HedgeAfter     time.Duration // a read that takes longer is asked of a second replica too
	RetryAfter     time.Duration // between attempts to connect, and between proposals
	OutAfter       time.Duration // a required replica without a session for longer is marked out
	GoneAfter      time.Duration // the same after Owner.Unreachable; 0 is OutAfter
	StableAfter    time.Duration // an idle owner sends the watermark
	FullAfter      time.Duration // a rebuild tries again on a disk that was full; 0 is 1 s
	CompareRegions int64         // regions compared at a time
	CopyRegions    int64         // neighbouring regions copied by one message, at most; 0 is one
	RebuildJobs    int           // comparisons, and regions copied, at a time, at most: replicas share it down to 16 each
	TailMax        int           // unstable writes of a replica at which new ones wait; 0 is 1024

	// Resync goes slower while the hosts' 99th percentile is above Pace, and above PaceFactor times
	// what it is without resync, or the median has grown by half as much, as found out within PaceListen, and
	// in a twentieth of the time later. PaceFactor is above 1; 0 is DefaultPaceFactor. If Pace is 0, it is never slowed; if PaceListen is, Pace alone counts. PaceMax is the longest pause before each
	// comparison and copy, which is what sees to it that a resync ends.
	Pace       time.Duration
	PaceFactor float64
	PaceListen time.Duration
	PaceMax    time.Duration
	// Share is that of the node: what is copied for a volume without hosts gives way to those of others. nil is for a
	// volume that is alone.
	Share *Share
}

// DefaultPaceFactor is Config.PaceFactor where that is not set.
const DefaultPaceFactor = 2

// requestLimit is how many RequestTimeouts a replica may take for one request while it answers others.
const requestLimit = 3

// tailMax is a quarter of what a store keeps (4096): takeovers that end early,
// one after the other, each add what they have repeated.
const tailMax = 1024

func (c Config) withDefaults() Config {
	if c.MaxData == 0 {
		c.MaxData = c.RegionBytes
	}
	if c.CopyRegions == 0 {
		c.CopyRegions = 1
	}
	if c.GoneAfter == 0 {
		c.GoneAfter = c.OutAfter
	}
	if c.TailMax == 0 {
		c.TailMax = tailMax
	}
	if c.PaceFactor == 0 {
		c.PaceFactor = DefaultPaceFactor
	}
	if c.FullAfter == 0 {
		c.FullAfter = time.Second
	}
	return c
}

// OpKind says what an Op does.
type OpKind uint8

// The kinds of Op.
const (
	Read OpKind = iota + 1
	Write
	CompareWrite // within one extent
	Unmap        // the range becomes a hole, which reads as zeroes
	WriteZeroes  // the range becomes zeroes that keep their space
	Scrub        // compares all replicas in sync and repairs what differs; within one region
)

// Op is what a host asks for. The Owner has it, and its buffers, from Submit
// until Env.Complete.
type Op struct {
	Kind    OpKind
	Off     int64  // bytes, multiple of BlockBytes
	Data    []byte // read into, or written; whole blocks, at least one
	Len     int64  // Unmap, WriteZeroes, Scrub: bytes, in the place of Data
	Compare []byte // CompareWrite: as long as Data
	Tag     any
	// Gone, when not nil, is set once nobody waits for the op any more. A change that has not
	// begun, for want of replicas, is not begun then: parts of it may have been written anew.
	Gone *atomic.Bool

	Err  error
	Sent bool // a change of it may have reached a replica

	Found Found // Scrub

	pieces   int
	began    clock.Mono
	deadline clock.Mono
	done     bool
}

// changes tells whether op is for data to change.
func (op *Op) changes() bool { return op.Kind != Read && op.Kind != Scrub }

func (op *Op) bytes() int64 {
	switch op.Kind {
	case Unmap, WriteZeroes, Scrub:
		return op.Len
	case Read, Write, CompareWrite:
	}
	return int64(len(op.Data))
}

// Env is what an Owner acts on. Its methods do not call the Owner back.
type Env interface {
	// Send passes q to replica disk; it may be lost, delayed or doubled. It
	// has copied q.Data, or is done with it, when it returns.
	Send(disk int, q replica.Request)
	// Propose passes p to Meta; it may be lost, delayed or doubled.
	Propose(p Proposal)
	// Complete gives op back, with Err set.
	Complete(op *Op)
}
