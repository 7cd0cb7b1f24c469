package replica

// OpKind says what an Op does.
type OpKind uint8

// The kinds of Op.
const (
	OpRead     OpKind = iota + 1
	OpWrite           // data, versions and tail entry
	OpVersions        // read the versions of regions
	OpFence           // Epoch becomes the fenced epoch; the regions in Void lose their version
	OpBegin           // the regions in Void lose their version, the tail becomes empty
	OpClear           // like OpWrite, but the range becomes a hole
	OpZero            // like OpWrite, but the range becomes zeroes that keep their space
	OpVouch           // State.Unproven becomes false
)

// Op is one operation of a store. All that a changing op does becomes durable
// together or not at all, and before it is done [I12].
type Op struct {
	Kind     OpKind
	Off, Len int64  // bytes
	Data     []byte // to write, or to read into
	Ver      Version
	// Copied says that the regions that OpWrite or OpClear touches take Ver
	// exactly as it is and that it is no part of the tail. Otherwise they take
	// the higher of Ver and what they have.
	Copied bool
	// Void has the offsets of regions whose version becomes NoVersion.
	Void   []int64
	Epoch  uint64 // OpFence
	Stable uint64 // made durable with the op; tail entries up to it may be forgotten

	// Results.
	Vers []Version // OpRead, OpVersions: one per region touched, of the same instant as the data
	Err  Status    // OK, Medium, NoSpace (then nothing was changed but what Void says) or Failed

	req  Request
	from int
	all  *parts // a Copy that takes several ops; nil: this is the only one
}

// Changes tells whether the op changes the store.
func (op *Op) Changes() bool { return op.Kind != OpRead && op.Kind != OpVersions }

// Writes tells whether the op changes data and versions.
func (op *Op) Writes() bool { return op.Kind == OpWrite || op.Kind == OpClear || op.Kind == OpZero }

// State is what a store remembers of a volume across restarts.
type State struct {
	Fenced uint64
	Stable uint64
	Last   uint64 // highest sequence number of any write, copy or watermark
	Tail   []Entry
	// Unproven says that the machine went down, not by a shutdown, since the state was vouched for [I15].
	Unproven bool
}

// Env is what a Replica acts on. Its methods do not call the Replica back.
type Env interface {
	// Submit starts an op; Replica.Done is called with it when it has ended,
	// and the op is the Replica's again.
	Submit(op *Op)
	// Answer sends a response to the owner at node to.
	Answer(to int, resp Response)
}
