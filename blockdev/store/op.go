package store

import (
	"sync/atomic"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
)

// OpKind says what an Op does.
type OpKind uint8

// The kinds of Op.
const (
	OpRead     OpKind = iota + 1
	OpWrite           // durable when done
	OpClear           // the range becomes a hole; durable when done
	OpZero            // the range reads as zeroes and keeps its space; durable when done
	OpPoison          // reads of the range fail until it is written or cleared; durable when done
	OpNote            // nothing but its Note; Off and Len are ignored; durable when done
	OpVersions        // reads Vers

	opVisit  // calls visit with the page, or nil when there is none, under mu
	opDrop   // removes an extent that owns no chunk; Off is its start
	opForget // removes the volume's notes
)

// Op is one operation on a volume, within one span: [Off, Off+Len) must not
// cross a multiple of SpanBytes. The caller owns the struct again, and the
// buffers, once Done was called; reusing it saves the allocations of its
// insides.
//
// All blocks of one write become visible together, also across a power cut,
// unless the disk is so full that whole regions have to go through the log and
// it has no Note.
type Op struct {
	Kind OpKind
	Vol  *Vol
	Off  int64    // bytes in the volume, a multiple of BlockBytes
	Len  int      // bytes, a multiple of BlockBytes, 1 block to SpanBytes
	Data [][]byte // OpRead, OpWrite: Len bytes in total; 4 KiB-aligned segments are not copied
	Ver  Version  // what the regions touched carry afterwards
	// Note is what changes with the op beside that; only of OpWrite, OpClear,
	// OpZero and OpNote.
	Note *Note
	// Vers is filled by OpRead, when not nil, and by OpVersions: one per region
	// touched, of the same instant as the data. Regions never written have the
	// zero Version.
	Vers []Version

	// Head and Tail are the bytes at the start of the first block and at the end
	// of the last, multiples of 512 below BlockBytes, that are not what the op is
	// about: a read does not mind poison there, a write leaves it, OpPoison adds
	// none. OpClear and OpZero have neither.
	Head, Tail int
	// Raw makes OpRead give the data beneath poison.
	Raw bool
	// Poison is, after OpRead, the poisoned sectors of the first block, a bit each.
	Poison byte

	// Done is called exactly once, with Err set. It must not block.
	Done func(*Op)
	// Err is nil or one of the kinds of blockdev.
	Err error
	// Cause is what lies beneath Err, or nil; ErrOff is the first bad byte in
	// the volume where that is known, else Off.
	Cause  error
	ErrOff int64
	// Tag is the caller's own.
	Tag any

	s       *Store
	next    *Op
	page    *page
	first   int // block in the page
	n       int // blocks
	pending atomic.Int32
	ios     []opIO

	// Reads.
	crcs    []uint32 // per block: what it must have (read) or has (write)
	runs    []run    // holes to zero
	vers    [regionsPerPage]uint32
	bad     atomic.Int32 // 1 + first block that failed its checksum
	badIO   atomic.Pointer[disk.IO]
	retries int

	// Writes. One round logs blocks [pos, end) of the op.
	pos, end  int
	byLog     bool
	blockBufs []int32  // dirty buffers of the blocks that go through the log
	chunks    []uint32 // per whole region of the round: its new chunk
	resv      uint32   // bit per region of the page: a chunk is reserved for it
	held      uint32   // bit per region of the page: its chunk is held for this op
	admitted  bool
	clearing  bool    // counted in page.clears
	claimed   bool    // has what claimNote takes
	vouches   bool    // its Note ends that a replica is unproven
	bare      bool    // an OpClear where nothing is: there is only its Note
	voids     []*page // pinned, one per region in Note.Void
	visit     func(*page)
}

// opIO is one disk IO of an Op; index is its first block in the Op.
type opIO struct {
	io     disk.IO
	op     *Op
	index  int
	blocks int
	segs   [][]byte
	copied *[]byte // bounce buffer of a read into unaligned memory
	chunk  uint32  // write: first chunk
}

type run struct{ index, blocks int }

// opList is a queue of ops, linked through Op.next.
type opList struct{ head, tail *Op }

func (l *opList) empty() bool { return l.head == nil }
func (l *opList) push(op *Op) {
	op.next = nil
	if l.tail == nil {
		l.head = op
	} else {
		l.tail.next = op
	}
	l.tail = op
}

func (l *opList) pop() *Op {
	op := l.head
	if op != nil {
		l.head = op.next
		if l.head == nil {
			l.tail = nil
		}
		op.next = nil
	}
	return op
}

// moveTo appends all of l to dst.
func (l *opList) moveTo(dst *opList) {
	if l.head == nil {
		return
	}
	if dst.tail == nil {
		dst.head = l.head
	} else {
		dst.tail.next = l.head
	}
	dst.tail = l.tail
	l.head, l.tail = nil, nil
}

func (op *Op) extent() uint32 { return uint32(op.Off / ExtentBytes) }

// regions returns the first and last region of the page that blocks [i, j) of
// the op touch.
func (op *Op) regions(i, j int) (int, int) {
	return (op.first + i) / blocksPerChunk, (op.first + j - 1) / blocksPerChunk
}

// whole tells whether the round covers all of region r and writes it to a new
// chunk.
func (op *Op) whole(r int) bool {
	return !op.byLog && r*blocksPerChunk >= op.first+op.pos && (r+1)*blocksPerChunk <= op.first+op.end
}

// inLog counts the blocks of the round that go through the log.
func (op *Op) inLog() int {
	n := op.end - op.pos
	r0, r1 := op.regions(op.pos, op.end)
	for r := r0; r <= r1; r++ {
		if op.whole(r) {
			n -= blocksPerChunk
		}
	}
	return n
}

// Submit starts every op of the batch and does not wait. The slice may be
// reused when it returns. Misuse of an Op (range, alignment, buffers) ends it
// with ErrInvalid.
func (s *Store) Submit(batch []*Op) {
	t := s.newTurn()
	s.mu.Lock()
	for _, op := range batch {
		op.s, op.Err, op.Cause, op.ErrOff = s, nil, nil, op.Off
		op.admitted, op.page, op.next, op.Poison = false, nil, nil, 0
		op.clearing, op.claimed, op.bare, op.voids = false, false, false, op.voids[:0]
		if !op.valid() {
			op.Err = blockdev.ErrInvalid
			t.done.push(op)
			continue
		}
		if s.mu.state == StateClosed || s.mu.closing != nil {
			op.Err, op.Cause = blockdev.ErrGone, ErrClosed
			t.done.push(op)
			continue
		}
		s.mu.inflight++
		op.admitted = true
		op.first, op.n = 0, 0
		if op.hasRange() {
			op.first, op.n = int(op.Off%SpanBytes/BlockBytes), op.Len/BlockBytes
		}
		op.pos, op.end, op.byLog, op.resv, op.held, op.retries = 0, op.n, false, 0, 0, 0
		op.blockBufs, op.chunks, op.runs = op.blockBufs[:0], op.chunks[:0], op.runs[:0]
		s.admit(t, op)
	}
	s.kick(t)
	s.mu.Unlock()
	s.run(t)
}

// hasRange tells whether Off and Len mean something.
func (op *Op) hasRange() bool { return op.Kind != OpNote && op.Kind != opForget }

func (op *Op) valid() bool {
	if op.Vol == nil || op.Done == nil || op.Note != nil && !op.validNote() {
		return false
	}
	if !op.hasRange() {
		return op.Kind == opForget || op.Note != nil
	}
	if op.Off < 0 || op.Len <= 0 || op.Off%BlockBytes != 0 || op.Len%BlockBytes != 0 ||
		op.Off%SpanBytes+int64(op.Len) > SpanBytes || op.Off >= maxVolumeBytes {
		return false
	}
	if op.Head|op.Tail != 0 && !op.validEdges() {
		return false
	}
	if op.Kind == OpVersions || op.Kind == OpRead && op.Vers != nil {
		if int64(len(op.Vers)) != (op.Off+int64(op.Len)-1)/ChunkBytes-op.Off/ChunkBytes+1 {
			return false
		}
	}
	if op.Kind == OpRead || op.Kind == OpWrite {
		n := 0
		for _, p := range op.Data {
			n += len(p)
		}
		return n == op.Len
	}
	return op.Kind >= OpClear && op.Kind <= opDrop
}

func (op *Op) validEdges() bool {
	return (op.Kind == OpRead || op.Kind == OpWrite || op.Kind == OpPoison) &&
		op.Head >= 0 && op.Head < BlockBytes && op.Head%sectorBytes == 0 &&
		op.Tail >= 0 && op.Tail < BlockBytes && op.Tail%sectorBytes == 0 &&
		op.Head+op.Tail < op.Len
}

func (s *Store) admit(t *turn, op *Op) {
	switch op.Kind {
	case OpRead:
		s.admitRead(t, op)
	case OpWrite:
		s.beginWrite(t, op)
	case opVisit:
		switch s.getPage(t, op, pageIfAny) {
		case pageAbsent:
			op.visit(nil)
			s.end(t, op, nil, nil)
		case pageReady:
			op.visit(op.page)
			s.end(t, op, nil, nil)
		}
	case OpVersions:
		switch s.getPage(t, op, pageIfAny) {
		case pageAbsent:
			clear(op.Vers)
			s.end(t, op, nil, nil)
		case pageReady:
			op.readVersions()
			s.end(t, op, nil, nil)
		}
	case OpNote:
		if s.writable(t, op) && s.prepareNote(t, op) {
			s.mu.logq.push(op)
		}
	case opDrop, opForget:
		if s.writable(t, op) {
			s.mu.logq.push(op)
		}
	default:
		s.admitClear(t, op)
	}
}

// end completes op: with kind nil it succeeded.
func (s *Store) end(t *turn, op *Op, kind, cause error) {
	op.Err, op.Cause = kind, cause
	s.disclaim(op)
	if op.page != nil {
		s.unpinLocked(op.page)
		op.page = nil
	}
	if op.admitted {
		op.admitted = false
		s.mu.inflight--
	}
	t.done.push(op)
}
