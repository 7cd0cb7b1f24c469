package serve

import (
	"sync"

	"blockd.dev/blockdev/store"
	"blockd.dev/replication/replica"
)

// storeOp is a replica's Op as the store knows it.
type storeOp struct {
	store.Op
	h       *hosted
	op      *replica.Op
	note    store.Note
	data    [1][]byte
	vers    []store.Version
	voided  int   // of op.Void: how many are in this or an earlier round
	cleared int64 // bytes of an OpClear that are in this or an earlier round
	last    bool  // this is the last round
}

var storeOps sync.Pool

func newStoreOp(h *hosted, op *replica.Op) *storeOp {
	o, _ := storeOps.Get().(*storeOp)
	if o == nil {
		o = &storeOp{}
		o.Tag = o
		o.Done = func(op *store.Op) {
			o := op.Tag.(*storeOp)
			o.h.inbox.PostSoon(event{op: o}, o.h.soon)
		}
	}
	o.h, o.op, o.voided, o.cleared = h, op, 0, 0
	o.Vol, o.Off, o.Len, o.Data, o.Note, o.Vers = h.vol, op.Off, int(op.Len), nil, nil, nil
	o.prepare()
	return o
}

// prepare says what the store shall do. A changing op has all of it in one note,
// so that it is durable together [I12].
func (o *storeOp) prepare() {
	op := o.op
	switch op.Kind {
	case replica.OpRead, replica.OpVersions:
		first, last := op.Off/store.ChunkBytes, (op.Off+op.Len-1)/store.ChunkBytes
		n := int(last - first + 1)
		if cap(o.vers) < n {
			o.vers = make([]store.Version, n)
		}
		o.Kind, o.Vers, o.last = store.OpVersions, o.vers[:n], true
		if op.Kind == replica.OpRead {
			o.Kind, o.data[0] = store.OpRead, op.Data
			o.Data = o.data[:]
		}
		return
	default:
	}
	o.Note = &o.note
	o.note = store.Note{Stable: op.Stable}
	o.note.Void = op.Void[o.voided:]
	if o.last = len(o.note.Void) <= store.VoidMax; !o.last {
		o.Kind, o.note.Void = store.OpNote, o.note.Void[:store.VoidMax] // regions may lose their versions early
		o.voided += store.VoidMax
		return
	}
	if op.Writes() {
		o.Ver = store.Version(op.Ver)
		o.note.Tail, o.note.Exact = !op.Copied, op.Copied
	}
	switch op.Kind {
	case replica.OpWrite:
		o.Kind, o.data[0] = store.OpWrite, op.Data
		o.Data = o.data[:]
	case replica.OpClear: // an extent that arrives is cleared by spans
		at := op.Off + o.cleared
		n := min(op.Len-o.cleared, store.SpanBytes-at%store.SpanBytes)
		o.cleared += n
		o.Kind, o.Off, o.Len, o.last = store.OpClear, at, int(n), o.cleared == op.Len
	case replica.OpZero:
		o.Kind = store.OpZero
	case replica.OpFence:
		o.Kind, o.note.Fence = store.OpNote, op.Epoch
	case replica.OpBegin:
		o.Kind, o.note.Forget = store.OpNote, true
	case replica.OpVouch:
		o.Kind, o.note.Vouch = store.OpNote, true
	default:
	}
}

// again prepares the round that follows the one that has ended, if one does.
func (o *storeOp) again() bool {
	if o.Err != nil || o.last {
		return false
	}
	o.prepare()
	return true
}

// done returns the replica's op with its results.
func (o *storeOp) done() *replica.Op {
	op := o.op
	op.Err = statusOf(&o.Op)
	if o.Note == nil && o.Err == nil {
		op.Vers = op.Vers[:0]
		for _, v := range o.Vers {
			op.Vers = append(op.Vers, replica.Version(v))
		}
	}
	return op
}

func (o *storeOp) free() {
	o.h, o.op, o.data[0], o.Data, o.Note, o.Vol = nil, nil, nil, nil, nil, nil
	o.note = store.Note{}
	storeOps.Put(o)
}

// stateOf is what a store remembers, as a replica has it.
func stateOf(st store.ReplicaState) replica.State {
	s := replica.State{Fenced: st.Fenced, Stable: st.Stable, Last: st.Last, Unproven: st.Unproven}
	for _, e := range st.Tail {
		s.Tail = append(s.Tail, replica.Entry{Ver: replica.Version(e.Ver), Off: e.Off, Len: e.Len})
	}
	return s
}
