package store

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"blockd.dev/blockdev/disk"
)

// noteModel is a dumb second implementation of volumes with Notes: what each
// block holds, by the number of the op that wrote it, the versions, and the state.
type noteModel struct {
	vols    []modelVol
	doubted bool // the machine has gone down
}

type modelVol struct {
	blocks []uint64 // 0: zeroes
	vers   []Version
	pages  []bool // spans that something is known of
	st     ReplicaState
}

func newNoteModel(sizes []int64) *noteModel {
	m := &noteModel{}
	for _, n := range sizes {
		m.vols = append(m.vols, newModelVol(n))
	}
	return m
}

func newModelVol(n int64) modelVol {
	return modelVol{blocks: make([]uint64, n/BlockBytes), vers: make([]Version, n/ChunkBytes), pages: make([]bool, (n+SpanBytes-1)/SpanBytes)}
}

func (m *noteModel) clone() *noteModel {
	c := &noteModel{vols: slices.Clone(m.vols), doubted: m.doubted}
	for i := range c.vols {
		v := &c.vols[i]
		v.blocks, v.vers, v.pages, v.st.Tail = slices.Clone(v.blocks), slices.Clone(v.vers), slices.Clone(v.pages), slices.Clone(v.st.Tail)
	}
	return c
}

// noteOp is an op of a test; id is what its blocks hold.
type noteOp struct {
	Op
	id  uint64
	vol int

	begin, ack int // events of the disk
}

// apply does what op does, by the text of Note and of replication/replica.Op.
func (v *modelVol) apply(op *noteOp) {
	n := op.Note
	if n.Vouch {
		v.st.Unproven = false
	}
	if op.Kind != OpNote {
		v.write(op)
	}
	for _, off := range n.Void {
		v.vers[off/ChunkBytes] = NoVersion
		v.pages[off/SpanBytes] = true
	}
	s := &v.st
	s.Fenced = max(s.Fenced, n.Fence)
	if n.Forget {
		s.Tail = nil
	}
	if n.Tail {
		s.Tail = append(s.Tail, TailEntry{op.Ver, op.Off, int64(op.Len)})
	}
	s.Stable = max(s.Stable, n.Stable)
	s.Last = max(s.Last, s.Stable)
	s.Tail = slices.DeleteFunc(s.Tail, func(e TailEntry) bool { return e.Ver.Seq <= s.Stable })
	if len(s.Tail) == 0 {
		s.Tail = nil
	}
}

// doubt does what a machine that goes down does.
func (m *noteModel) doubt() {
	m.doubted = true
	for i := range m.vols {
		m.vols[i].st.Unproven = true
	}
}

func (v *modelVol) write(op *noteOp) {
	id := op.id
	if op.Kind != OpWrite {
		id = 0
	}
	for b := op.Off / BlockBytes; b < (op.Off+int64(op.Len))/BlockBytes; b++ {
		v.blocks[b] = id
	}
	v.st.Last = max(v.st.Last, op.Ver.Seq)
	span := op.Off / SpanBytes
	voids := slices.ContainsFunc(op.Note.Void, func(off int64) bool { return off/SpanBytes == span })
	if op.Kind == OpClear && !v.pages[span] && !voids && !(op.Note.Exact && op.Ver != Version{}) {
		return // nothing there, and nothing to remember
	}
	v.pages[span] = true
	for r := op.Off / ChunkBytes; r*ChunkBytes < op.Off+int64(op.Len); r++ {
		if have := v.vers[r]; op.Note.Exact || op.Ver.Epoch > have.Epoch || op.Ver.Epoch == have.Epoch && op.Ver.Seq > have.Seq {
			v.vers[r] = op.Ver
		}
	}
}

// stampBlock fills p with what op id writes to block b.
func stampBlock(p []byte, id uint64, b int64) {
	for i := 0; i < len(p); i += 8 {
		binary.LittleEndian.PutUint64(p[i:], id<<24|uint64(b))
	}
}

// readModel reads all of a store's volume the way a model has it.
func readModel(s *Store, id VolumeID, size int64) (modelVol, error) {
	m := newModelVol(size)
	v, err := s.OpenVolume(id)
	if err != nil {
		return m, err
	}
	defer s.CloseVolume(v)
	var want [BlockBytes]byte
	buf := disk.NewAligned(SpanBytes)
	for off := int64(0); off < size; off += SpanBytes {
		p := buf[:min(SpanBytes, size-off)]
		clear(p)
		vers := m.vers[off/ChunkBytes : (off+int64(len(p)))/ChunkBytes]
		op := &Op{Kind: OpRead, Vol: v, Off: off, Len: len(p), Data: [][]byte{p}, Vers: vers}
		if err := s.wait(op); err != nil {
			return m, err
		}
		alone := make([]Version, len(vers))
		if err := s.wait(&Op{Kind: OpVersions, Vol: v, Off: off, Len: len(p), Vers: alone}); err != nil {
			return m, err
		}
		if !slices.Equal(alone, vers) {
			return m, fmt.Errorf("volume %x at %d: OpRead has versions %v, OpVersions %v", id, off, vers, alone)
		}
		for b := off / BlockBytes; b*BlockBytes < off+int64(len(p)); b++ {
			q := p[b*BlockBytes-off:][:BlockBytes]
			got := binary.LittleEndian.Uint64(q) >> 24
			if got != 0 {
				stampBlock(want[:], got, b)
			} else {
				clear(want[:])
			}
			if string(q) != string(want[:]) {
				return m, fmt.Errorf("volume %x block %d holds a mixture", id, b)
			}
			m.blocks[b] = got
		}
	}
	m.st, err = s.ReplicaState(v)
	return m, err
}

// differs says where two volumes differ; "" when they are equal.
func (v *modelVol) differs(w *modelVol) string {
	for b := range v.blocks {
		if v.blocks[b] != w.blocks[b] {
			return fmt.Sprintf("block %d has op %d, want %d", b, v.blocks[b], w.blocks[b])
		}
	}
	for r := range v.vers {
		if v.vers[r] != w.vers[r] {
			return fmt.Sprintf("region %d has version %v, want %v", r, v.vers[r], w.vers[r])
		}
	}
	a, b := &v.st, &w.st
	if a.Fenced != b.Fenced || a.Stable != b.Stable || a.Last != b.Last || a.Unproven != b.Unproven || !slices.Equal(a.Tail, b.Tail) {
		return fmt.Sprintf("state %s, want %s", stateString(a), stateString(b))
	}
	return ""
}

// stateString is short also when the tail is long.
func stateString(s *ReplicaState) string {
	tail := s.Tail
	more := ""
	if n := len(tail) - 4; n > 0 {
		tail, more = tail[:4], fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("fenced %d stable %d last %d unproven %v tail %v%s", s.Fenced, s.Stable, s.Last, s.Unproven, tail, more)
}

// noteGen makes random ops with Notes.
type noteGen struct {
	rng    *rand.Rand
	sizes  []int64
	nextID uint64
	epoch  uint64
	stable []uint64
}

func newNoteGen(seed uint64, sizes []int64) *noteGen {
	return &noteGen{rng: rand.New(rand.NewPCG(seed, 3)), sizes: sizes, epoch: 1, stable: make([]uint64, len(sizes))}
}

func (g *noteGen) op(vols []*Vol) *noteOp {
	rng := g.rng
	g.nextID++
	op := &noteOp{id: g.nextID, vol: rng.IntN(len(vols)), ack: -1}
	op.Vol = vols[op.vol]
	blocks := g.sizes[op.vol] / BlockBytes
	n := 1 + rng.Int64N(6)
	if rng.IntN(3) == 0 {
		n = 16 + rng.Int64N(30)
	}
	first := rng.Int64N(blocks - n + 1)
	if rng.IntN(3) == 0 {
		first = first / blocksPerChunk * blocksPerChunk
	}
	if rng.IntN(2) == 0 {
		first = min(first%(blocks/8), blocks-n)
	}
	n = min(n, blocksPerPage-first%blocksPerPage)
	op.Off, op.Len = first*BlockBytes, int(n)*BlockBytes
	op.Ver = Version{g.epoch, op.id}
	if rng.IntN(8) == 0 {
		op.Ver.Seq = uint64(rng.Int64N(int64(op.id))) + 1 // from a source, or overtaken
	}
	note := &Note{Tail: rng.IntN(4) != 0, Exact: rng.IntN(6) == 0}
	switch x := rng.IntN(20); {
	case x < 12:
		op.Kind = OpWrite
		p := disk.NewAligned(op.Len)
		for b := range n {
			stampBlock(p[b*BlockBytes:][:BlockBytes], op.id, first+b)
		}
		op.Data = [][]byte{p}
	case x < 15:
		op.Kind = OpClear
		if rng.IntN(4) == 0 {
			op.Ver, note.Exact, note.Tail = Version{}, true, false // a copy of what was never written
		}
	case x < 17:
		op.Kind = OpZero
	default:
		op.Kind = OpNote
		note.Tail, note.Exact, note.Forget = false, false, rng.IntN(2) == 0
		if rng.IntN(2) == 0 {
			g.epoch++
			note.Fence = g.epoch
		}
	}
	if rng.IntN(3) == 0 {
		step := op.id - g.stable[op.vol]
		if rng.IntN(8) != 0 {
			step = min(step, 10)
		}
		g.stable[op.vol] += rng.Uint64N(step + 1)
	}
	if rng.IntN(2) == 0 {
		note.Stable = g.stable[op.vol]
	}
	if rng.IntN(5) == 0 {
		for range 1 + rng.IntN(6) {
			note.Void = append(note.Void, rng.Int64N(g.sizes[op.vol]/ChunkBytes)*ChunkBytes)
		}
	}
	note.Vouch = rng.IntN(10) == 0
	op.Note = note
	return op
}

// TestNotesMatchTheModel: after every op with a Note, and after every open, the
// store has the data, versions and state that the model has.
func TestNotesMatchTheModel(t *testing.T) {
	sizes := []int64{1 << 20, 2*SpanBytes + 3*ChunkBytes}
	for seed := range uint64(modelSeeds) {
		o := testOptions()
		d, s, v := newTest(t, 16<<20, o)
		s.CloseVolume(v)
		reopen := func() *Store {
			s, err := Open(d, o)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		o.Boot = Boot{1}
		s = reopen()
		g, m := newNoteGen(seed, sizes), newNoteModel(sizes)
		var vols []*Vol
		open := func() {
			vols = vols[:0]
			for i := range sizes {
				v, err := s.OpenVolume(VolumeID{byte(i + 1)})
				if err != nil {
					t.Fatal(err)
				}
				vols = append(vols, v)
			}
		}
		open()
		for range 120 {
			op := g.op(vols)
			if err := s.wait(&op.Op); err != nil {
				t.Fatalf("seed %d op %d: %v", seed, op.id, err)
			}
			m.vols[op.vol].apply(op)
			switch g.rng.IntN(12) {
			case 0:
				for _, v := range vols {
					s.CloseVolume(v)
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				o.Boot[0]++ // the machine was shut down, or not
				s = reopen()
				open()
			case 1: // the process was killed
				s = reopen()
				open()
			case 2: // the machine went down
				o.Boot[0]++
				s = reopen()
				open()
				m.doubt()
			case 3:
				if err := s.Checkpoint(); err != nil {
					t.Fatal(err)
				}
			}
			for i := range sizes {
				got, err := readModel(s, VolumeID{byte(i + 1)}, sizes[i])
				if err != nil {
					t.Fatalf("seed %d after op %d: %v", seed, op.id, err)
				}
				if diff := got.differs(&m.vols[i]); diff != "" {
					t.Fatalf("seed %d after op %d (%+v, note %+v): volume %d: %s", seed, op.id, op.Kind, op.Note, i, diff)
				}
			}
		}
	}
}
