package device

import (
	"fmt"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/internal/clock"
	"blockd.dev/internal/turn"
	"blockd.dev/replication/message"
	"blockd.dev/replication/volume"
)

// Layout says where the bytes of a volume are; raftmeta/extmap has one.
type Layout interface {
	// Locate returns the extent that keeps the byte at addr, the offset in it,
	// and how many bytes from there on lie on it contiguously.
	Locate(addr int64) (extent uint32, offset, run int64)
	// SizeBytes is how many bytes the extents cover.
	SizeBytes() int64
}

// Transport takes requests to replicas and to other nodes; serve.Transport is
// one. Both methods return at once. Done is called exactly once for each call,
// from any goroutine, perhaps before it returns.
type Transport interface {
	// Send takes a request to a replica.
	Send(*message.Sent)
	// Forward takes a host's request to another node.
	Forward(*message.Forwarded)
}

// Meta takes the owner's proposals about its replicas.
type Meta interface {
	// Propose returns at once. What came of a proposal shows in the next View, or
	// never.
	Propose(volume [16]byte, p volume.Proposal)
}

// Lease is what makes this node the owner. A *lease.Lease of raftmeta is one.
type Lease interface {
	// Deadline is the reading of Config.Clock from which on nothing may be
	// served, unless it moves before; 0 when the lease is over for good. It is
	// safe for concurrent use.
	Deadline() clock.Mono
}

// Members are the replicas of a volume as of one revision of the catalog.
type Members struct {
	View volume.View
	// Disks are their disks' numbers: Disks[i] keeps View.Members[i]. During one
	// lease they keep their places, and new ones come at the end.
	Disks []uint16
	// Sets returns the members that keep an extent; nil when all keep all.
	Sets func(extent int64) []int
	// Arriving returns the member that an extent moves to, or -1; nil when none moves. No
	// owner before the epoch ArrivingSince knew of all these moves. What an owner began with counts
	// as long as it lives.
	Arriving      func(extent int64) int
	ArrivingSince uint64
}

// Timeouts of an owner. Zero fields mean the defaults, which replace a node that
// died in less than half a second where min_in_sync allows it.
type Timeouts struct {
	Op      time.Duration // until a host is told to come again. Default 30 s.
	Request time.Duration // until a silent replica gets a new session. Default 500 ms.
	Hedge   time.Duration // until a second replica is asked to read. Default 10 ms.
	Retry   time.Duration // between attempts and proposals. Default 50 ms.
	Out     time.Duration // until a replica without a session is marked out. Default 300 ms.
	Gone    time.Duration // the same if its node can't be reached. Default 50 ms.
	Stable  time.Duration // until an idle owner tells the watermark. Default 50 ms.
}

func (t *Timeouts) setDefaults() {
	for _, f := range []struct {
		value *time.Duration
		def   time.Duration
	}{
		{&t.Op, 30 * time.Second}, {&t.Request, 500 * time.Millisecond}, {&t.Hedge, 10 * time.Millisecond},
		{&t.Retry, 50 * time.Millisecond}, {&t.Out, 300 * time.Millisecond},
		{&t.Gone, 50 * time.Millisecond}, {&t.Stable, 50 * time.Millisecond},
	} {
		if *f.value == 0 {
			*f.value = f.def
		}
	}
}

// Config describes a volume on one node.
type Config struct {
	ID        [16]byte
	SizeBytes int64 // a multiple of 4096, at most what Layout covers
	BlockSize int   // logical block: 512 or 4096
	ReadOnly  bool
	Layout    Layout
	// MinInSync is how many copies a write needs to be acknowledged.
	MinInSync int
	// Boot grows with each start of this node's process. It begins the numbers of
	// this node's sessions with owners elsewhere. Below 2^32.
	Boot uint64

	Transport Transport
	// Attended is what reads of a disk on this node wait for (blockdev.Attendable); it may
	// return nil, and be nil.
	Attended func(disk uint16) blockdev.Attended
	Meta     Meta
	// Clock is that of leases. Default clock.Boot, which counts suspension.
	Clock clock.Clock
	// Soon is an endpoint's: what a turn of a pump brings for the owner is dealt with at once.
	// nil has each answer go by itself.
	Soon turn.Soon
	// Guard is the generation of the volume's reservations on this node, by which
	// hosts' requests were let pass; nil if there are none. See Volume.Serve.
	Guard func() uint64
	// GiveUp is called when this node should give the lease of an epoch back
	// although nobody has asked for it, if it still has it: the volume has got
	// other disks, which a new owner has to begin with, or the owner has ended
	// because a renewal was late. What was in flight has ended. It must not block.
	GiveUp func(epoch uint64)

	Timeouts Timeouts
	// Patience is how long requests wait while no node is known to own the
	// volume, or the owner can't be reached. Default 15 s.
	Patience time.Duration
	// Late is how long after its arrival a host's request that changes data may be
	// begun, or begun again; after that it ends with ErrBusy, for the host to
	// send again. It must be less than any host waits before it gives up a path that is
	// silent and sends its requests by another: what it has sent since is newer.
	// Default 2 s.
	Late time.Duration
	// Since is the reading from which on this node's process has run without a break,
	// or clock.Never while that is being found out: what hosts sent before it they may have
	// sent by another path meanwhile, so that is as late. now is what Clock has just read. nil means since ever.
	Since func(now clock.Mono) clock.Mono
	// Pace is what hosts' 99th percentile may be while replicas are brought back, even
	// if that is more than PaceFactor times what it was before. Defaults 1 ms, 2.
	Pace       time.Duration
	PaceFactor float64
	// Share is that of the node's owners and stores. nil is for a volume that is alone.
	Share *volume.Share
	// RebuildJobs are comparisons, and regions copied, at a time, while hosts do not wait for them: for all replicas
	// together that are brought back, but for 16 each. Default 64.
	RebuildJobs int
}

func (c *Config) setDefaults() error {
	switch {
	case c.ID == [16]byte{}:
		return fmt.Errorf("replicated volume: ID is missing")
	case c.Layout == nil || c.Transport == nil || c.Meta == nil:
		return fmt.Errorf("replicated volume %x: Layout, Transport and Meta are required", c.ID)
	case c.BlockSize != 512 && c.BlockSize != blockBytes:
		return fmt.Errorf("replicated volume %x: BlockSize is %d: give 512 or 4096", c.ID, c.BlockSize)
	case c.Boot >= 1<<32:
		return fmt.Errorf("replicated volume %x: Boot is %d: give a number below 2^32", c.ID, c.Boot)
	case c.MinInSync < 1:
		return fmt.Errorf("replicated volume %x: MinInSync is %d: give at least 1", c.ID, c.MinInSync)
	}
	if err := checkSize(c.SizeBytes, c.Layout); err != nil {
		return fmt.Errorf("replicated volume %x: %w", c.ID, err)
	}
	if c.Clock == nil {
		c.Clock = clock.Boot{}
	}
	if c.Attended == nil {
		c.Attended = func(uint16) blockdev.Attended { return nil }
	}
	if c.Guard == nil {
		c.Guard = func() uint64 { return 0 }
	}
	if c.Since == nil {
		c.Since = func(clock.Mono) clock.Mono { return 0 }
	}
	if c.GiveUp == nil {
		c.GiveUp = func(uint64) {}
	}
	if c.Patience == 0 {
		c.Patience = 15 * time.Second
	}
	if c.Late == 0 {
		c.Late = 2 * time.Second
	}
	if c.Pace == 0 {
		c.Pace = time.Millisecond
	}
	if c.RebuildJobs == 0 {
		c.RebuildJobs = 64
	}
	c.Timeouts.setDefaults()
	return nil
}

func checkSize(size int64, l Layout) error {
	if size < blockBytes || size%blockBytes != 0 || size > l.SizeBytes() {
		return fmt.Errorf("SizeBytes is %d: give a multiple of %d, at least that, and at most %d, which its extents cover", size, blockBytes, l.SizeBytes())
	}
	return nil
}

// owner is the configuration of the state machine.
func (c *Config) owner() volume.Config {
	return volume.Config{
		BlockBytes: blockBytes, RegionBytes: regionBytes, ExtentBytes: extentBytes, VolumeBytes: c.Layout.SizeBytes(),
		MaxData: pieceMax, MinInSync: c.MinInSync,
		OpTimeout: c.Timeouts.Op, RequestTimeout: c.Timeouts.Request, HedgeAfter: c.Timeouts.Hedge,
		RetryAfter: c.Timeouts.Retry, OutAfter: c.Timeouts.Out, GoneAfter: c.Timeouts.Gone, StableAfter: c.Timeouts.Stable,
		CompareRegions: compareRegions, CopyRegions: message.DataMax / regionBytes, RebuildJobs: c.RebuildJobs,
		Pace: c.Pace, PaceFactor: c.PaceFactor, PaceListen: paceListen, PaceMax: paceMax, Share: c.Share,
	}
}

// Sizes in bytes. They are those of blockdev/store and raftmeta/extmap, which
// this package does not need otherwise.
const (
	blockBytes  = 4096
	regionBytes = 64 << 10
	extentBytes = 64 << 20
	// compareRegions are compared at a time: 1 MiB, which is within one span of
	// a store.
	compareRegions = 16
	// pieceMax is the most that one op of the owner is about, in bytes.
	pieceMax = message.DataMax
	// paceMax is the longest pause before a region is copied or regions are
	// compared, which leaves 13 MB/s at least.
	paceMax = 5 * time.Millisecond
	// paceListen is for how long hosts are watched before that, and for a twentieth of the time later.
	paceListen = time.Second
)
