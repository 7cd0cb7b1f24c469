package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/disk"
	"blockd.dev/blockdev/disk/sim"
)

// parking holds the IOs that pick chooses until they are let go.
type parking struct {
	disk.Disk
	pick   func(*disk.IO) bool
	parked []*disk.IO
}

func (d *parking) Submit(batch []*disk.IO) {
	for _, io := range batch {
		if d.pick != nil && d.pick(io) {
			d.parked = append(d.parked, io)
			continue
		}
		d.Disk.Submit([]*disk.IO{io})
	}
}

func (d *parking) letGo() {
	list := d.parked
	d.pick, d.parked = nil, nil
	for _, io := range list {
		d.Disk.Submit([]*disk.IO{io})
	}
}

// fullTest is a store of a volume that has all chunks but a few, from the first on. Its IO
// is done at once unless it is parked.
func fullTest(t *testing.T, left int) (d *parking, s *Store, v *Vol, end int64) {
	t.Helper()
	d = &parking{Disk: sim.New(8<<20, sim.Options{NoTrace: true})}
	if err := Format(d, testFormat()); err != nil {
		t.Fatal(err)
	}
	s = openTest(t, d)
	v, err := s.OpenVolume(VolumeID{7})
	if err != nil {
		t.Fatal(err)
	}
	p := fill(ChunkBytes, 1)
	for ; s.Stats().AvailableBytes > int64(left)*ChunkBytes; end += ChunkBytes {
		p[0] = byte(end / ChunkBytes)
		if err := write(s, v, end, p); err != nil {
			t.Fatal(err)
		}
	}
	return d, s, v, end
}

// spec is a change of a volume.
type spec struct {
	kind OpKind
	off  int64
	n    int
	note bool
}

func (c spec) op(s *Store, v *Vol) *Op {
	op := &Op{Kind: c.kind, Vol: v, Off: c.off, Len: c.n, Ver: Version{1, s.NextSeq()}}
	if c.note {
		op.Note = &Note{Tail: true}
	}
	return op
}

// start submits op and returns what tells whether it is done.
func start(s *Store, op *Op) (done *bool) {
	done = new(bool)
	op.Done = func(*Op) { *done = true }
	if op.Kind == OpWrite && op.Data == nil {
		op.Data = [][]byte{fill(op.Len, uint64(op.Off))}
	}
	s.Submit([]*Op{op})
	return done
}

// wantDone fails the test when op is not done, or not with err.
func wantDone(t *testing.T, what string, op *Op, done *bool, err error) {
	t.Helper()
	if !*done {
		t.Fatalf("%s is not done", what)
	}
	if !errors.Is(op.Err, err) {
		t.Fatalf("%s: %v (%v), want %v", what, op.Err, op.Cause, err)
	}
}

func inTheLog(s *Store) func(*disk.IO) bool {
	return func(io *disk.IO) bool {
		return io.Op == disk.Write && io.Off >= s.sb.logOff && io.Off < s.sb.dataOff
	}
}

func inTheData(s *Store) func(*disk.IO) bool {
	return func(io *disk.IO) bool {
		return io.Op == disk.Write && io.Off >= s.sb.dataOff && io.Off < s.sb.superBOff
	}
}

// What a host has on a full disk it can write anew, in any way, while an unmap in the same span is on its way
// to the log: whether the unmap is of the same region or of another one.
func TestOverwriteBesideAnUnmapOnAFullDisk(t *testing.T) {
	const at = 4 * ChunkBytes
	for name, op := range map[string]spec{
		"a block":                   {kind: OpWrite, off: at + 3*BlockBytes, n: BlockBytes},
		"parts of two regions":      {kind: OpWrite, off: at + ChunkBytes - 2*BlockBytes, n: 5 * BlockBytes},
		"a region":                  {kind: OpWrite, off: at, n: ChunkBytes},
		"regions and parts":         {kind: OpWrite, off: at + BlockBytes, n: 3 * ChunkBytes},
		"with a note":               {kind: OpWrite, off: at + BlockBytes, n: BlockBytes, note: true},
		"a region, with a note":     {kind: OpWrite, off: at, n: ChunkBytes, note: true},
		"zeroes":                    {kind: OpZero, off: at + BlockBytes, n: BlockBytes},
		"zeroes in several regions": {kind: OpZero, off: at + BlockBytes, n: 2 * ChunkBytes},
		"zeroes with a note":        {kind: OpZero, off: at + BlockBytes, n: BlockBytes, note: true},
	} {
		for beside, off := range map[string]int64{"another region": 0, "the same region": at} {
			t.Run(name+" beside "+beside, func(t *testing.T) {
				d, s, v, end := fullTest(t, 0)
				if op.note { // takes a page of its own
					if err := s.wait(&Op{Kind: OpNote, Vol: v, Note: &Note{Stable: 1}}); err != nil {
						t.Fatal(err)
					}
				}
				want := make([]byte, end)
				if _, err := read(s, v, 0, want[:SpanBytes]); err != nil {
					t.Fatal(err)
				}
				d.pick = inTheLog(s)
				unmap := &Op{Kind: OpClear, Vol: v, Off: off, Len: ChunkBytes}
				unmapped := start(s, unmap)
				w := op.op(s, v)
				written := start(s, w)
				d.letGo()
				wantDone(t, "the unmap", unmap, unmapped, nil)
				wantDone(t, "the write", w, written, nil)
				clear(want[off:][:ChunkBytes])
				if w.Kind == OpZero {
					clear(want[w.Off:][:w.Len])
				} else {
					copy(want[w.Off:], w.Data[0])
				}
				for range 2 { // also from what is in the log and the checkpoint
					got := make([]byte, SpanBytes)
					if _, err := read(s, v, 0, got); err != nil || !bytes.Equal(got, want[:SpanBytes]) {
						t.Fatalf("reads back wrong: %v", err)
					}
					wantAccounted(t, s)
					s = openTest(t, d)
					v, _ = s.OpenVolume(VolumeID{7})
				}
			})
		}
	}
}

// What an acknowledged unmap has freed is there for the next write, also while a checkpoint still
// writes to its place.
func TestUnmapMakesRoomDuringACheckpoint(t *testing.T) {
	for name, op := range map[string]spec{
		"a block":           {kind: OpWrite, n: BlockBytes},
		"a region":          {kind: OpWrite, n: ChunkBytes},
		"a block with note": {kind: OpWrite, n: BlockBytes, note: true},
		"zeroes":            {kind: OpZero, n: 2 * BlockBytes},
	} {
		t.Run(name, func(t *testing.T) {
			d, s, v, end := fullTest(t, 0)
			if err := write(s, v, 0, fill(BlockBytes, 1)); err != nil {
				t.Fatal(err)
			}
			d.pick = inTheData(s)
			turn := s.newTurn()
			s.mu.Lock()
			s.startCheckpoint(turn)
			s.mu.lg.full = true // so that it does not wait for more
			s.kick(turn)
			s.mu.lg.full = false
			s.mu.Unlock()
			s.run(turn)
			if len(d.parked) == 0 {
				t.Fatal("nothing is on its way home: this tells nothing")
			}
			if err := s.wait(&Op{Kind: OpClear, Vol: v, Len: ChunkBytes}); err != nil {
				t.Fatal(err)
			}
			op.off = end
			w := op.op(s, v)
			written := start(s, w)
			if *written {
				t.Fatalf("done (%v) while nothing was free: this tells nothing", w.Err)
			}
			d.letGo()
			wantDone(t, "the write", w, written, nil)
			wantAccounted(t, s)
		})
	}
}

// A chunk that an overwrite has for a moment is not missed: who needs one waits for it, in order, and only as
// long as there is something to wait for.
func TestWritesWaitForChunksOfOthers(t *testing.T) {
	d, s, v, end := fullTest(t, 3)
	if err := s.Checkpoint(); err != nil { // the log has room for all that follows
		t.Fatal(err)
	}
	d.pick = inTheData(s)
	over := &Op{Kind: OpWrite, Vol: v, Len: ChunkBytes}
	overDone := start(s, over)
	last := &Op{Kind: OpWrite, Vol: v, Off: end, Len: ChunkBytes}
	lastDone := start(s, last)
	wantParked := func() {
		t.Helper()
		if st := s.Stats(); st.AvailableBytes != ChunkBytes || len(d.parked) != 2 {
			t.Fatalf("%d bytes left, %d writes are under way, want one chunk and 2", st.AvailableBytes, len(d.parked))
		}
	}
	wantParked()
	// The overwrite is going to give one back, the other write none.
	gets := &Op{Kind: OpWrite, Vol: v, Off: end + 2*ChunkBytes - BlockBytes, Len: 2 * BlockBytes}
	getsDone := start(s, gets)
	refused := &Op{Kind: OpWrite, Vol: v, Off: end + 3*ChunkBytes, Len: 2 * ChunkBytes}
	refusedDone := start(s, refused)
	zero := &Op{Kind: OpZero, Vol: v, Off: end + 5*ChunkBytes, Len: BlockBytes}
	zeroDone := start(s, zero)
	if *getsDone || *refusedDone || *zeroDone {
		t.Fatal("a write does not wait")
	}
	// Who needs none does not wait, and takes none from those who do.
	small := &Op{Kind: OpWrite, Vol: v, Off: ChunkBytes, Len: BlockBytes}
	wantDone(t, "a small overwrite", small, start(s, small), nil)
	large := &Op{Kind: OpWrite, Vol: v, Off: 2 * ChunkBytes, Len: ChunkBytes}
	wantDone(t, "a large overwrite", large, start(s, large), nil)
	wantParked()
	d.letGo()
	wantDone(t, "the overwrite", over, overDone, nil)
	wantDone(t, "the write that took the last chunk", last, lastDone, nil)
	wantDone(t, "the write that waited for a second chunk", gets, getsDone, nil)
	wantDone(t, "the write that waited for two others", refused, refusedDone, blockdev.ErrNoSpace)
	wantDone(t, "the zeroes that waited for one", zero, zeroDone, blockdev.ErrNoSpace)
	wantAccounted(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// What was reserved and is not needed in the end was not missed either.
func TestWritesWaitForWhatIsReserved(t *testing.T) {
	d, s, v, end := fullTest(t, 1)
	d.pick = inTheLog(s)
	unmap := &Op{Kind: OpClear, Vol: v, Len: BlockBytes} // the region keeps others
	unmapDone := start(s, unmap)
	over := &Op{Kind: OpWrite, Vol: v, Off: BlockBytes, Len: BlockBytes} // may need a chunk after the unmap
	overDone := start(s, over)
	waits := &Op{Kind: OpWrite, Vol: v, Off: end, Len: BlockBytes}
	waitsDone := start(s, waits)
	if st := s.Stats(); st.AvailableBytes != 0 || *waitsDone {
		t.Fatalf("%d bytes left, done: %v", st.AvailableBytes, *waitsDone)
	}
	d.letGo()
	wantDone(t, "the unmap", unmap, unmapDone, nil)
	wantDone(t, "the overwrite", over, overDone, nil)
	wantDone(t, "the write that waited", waits, waitsDone, nil)
	wantAccounted(t, s)
}

// A write that is refused leaves nothing behind: not a page, nor an entry of the directory, that others then lack.
func TestRefusedWritesTakeNoMetadata(t *testing.T) {
	d, s, _, _ := fullTest(t, 0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	o := testOptions()
	o.PagesMax = 64 // nobody has to make room
	s, err := Open(d, o)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := s.OpenVolume(VolumeID{7})
	before := s.Stats()
	for i := range int64(40) {
		err := write(s, v, i/2*ExtentBytes+8*SpanBytes+i%2*SpanBytes, fill(BlockBytes, 1))
		if !errors.Is(err, blockdev.ErrNoSpace) || errors.Is(err, errNoPages) {
			t.Fatalf("write %d on a full disk: %v", i, err)
		}
	}
	for i := range byte(20) {
		other, _ := s.OpenVolume(VolumeID{8, i})
		err := s.wait(&Op{Kind: OpWrite, Vol: other, Len: BlockBytes, Data: [][]byte{fill(BlockBytes, 1)}, Ver: Version{1, 1}, Note: &Note{Tail: true}})
		if !errors.Is(err, blockdev.ErrNoSpace) || errors.Is(err, errNoPages) {
			t.Fatalf("write to replica %d on a full disk: %v", i, err)
		}
	}
	if st := s.Stats(); st.MetaPages != before.MetaPages || st.Extents != before.Extents || st.PagesCached > before.PagesCached+1 || st.Replicas > 0 {
		t.Errorf("%d pages, %d extents, %d pages in memory, %d replicas, before %d, %d, %d and none",
			st.MetaPages, st.Extents, st.PagesCached, st.Replicas, before.MetaPages, before.Extents, before.PagesCached)
	}
	if err := s.wait(&Op{Kind: OpClear, Vol: v, Len: ChunkBytes}); err != nil {
		t.Fatal(err)
	}
	if err := write(s, v, 30*ExtentBytes, fill(BlockBytes, 1)); err != nil {
		t.Errorf("a write where nothing was, after an unmap: %v", err)
	}
	wantAccounted(t, s)
}

// A store that fails, or closes, lets nobody wait.
func TestWaitingForSpaceEnds(t *testing.T) {
	for _, what := range []string{"fails", "closes"} {
		d, s, v, end := fullTest(t, 1)
		d.pick = inTheData(s)
		over := &Op{Kind: OpWrite, Vol: v, Len: ChunkBytes}
		overDone := start(s, over)
		waits := &Op{Kind: OpWrite, Vol: v, Off: end, Len: BlockBytes}
		waitsDone := start(s, waits)
		if *overDone || *waitsDone {
			t.Fatal("a write does not wait")
		}
		if what == "fails" {
			turn := s.newTurn()
			s.mu.Lock()
			s.failLocked(turn, errors.New("out of order"))
			s.mu.Unlock()
			s.run(turn)
			wantDone(t, "the write that waited", waits, waitsDone, blockdev.ErrIO)
			d.letGo()
			continue
		}
		closed := make(chan error, 1)
		go func() { closed <- s.Close() }()
		for !s.closing.Load() {
			runtime.Gosched()
		}
		d.letGo()
		if err := <-closed; err != nil {
			t.Fatal(err)
		}
		wantDone(t, "the write that waited", waits, waitsDone, nil)
	}
}

// accounted says what is wrong with how s counts its space, with nothing in flight.
func accounted(s *Store) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	m, a := &s.mu, s.mu.alloc

	// Every chunk is free, of one region, or bad; a region with a chunk has a block.
	var out fmtBuffer
	c := &checker{s: s, w: &out}
	c.structure("in memory")
	if c.r.Problems > 0 {
		bad("%s", out)
	}
	taken, inRuns := uint32(0), uint32(0)
	for chunk := range a.chunks {
		if is := a.taken(chunk); is != (m.bitmap[chunk/bitsPerBitmapBlock].img.bit(chunk%bitsPerBitmapBlock) || m.bad[chunk]) {
			bad("chunk %d is taken: %v", chunk, is)
		} else if is {
			taken++
		}
	}
	for _, n := range a.runFree {
		inRuns += uint32(n)
	}
	if a.free != inRuns || a.free+taken != a.chunks || int64(taken) != m.owned+int64(len(m.bad)) || m.owned != int64(c.r.Chunks) {
		bad("%d chunks are free, %d in runs; %d are taken of %d; volumes own %d, %d of them known, %d are bad",
			a.free, inRuns, taken, a.chunks, m.owned, c.r.Chunks, len(m.bad))
	}
	if a.reserved != 0 || len(m.deferred) != 0 || len(m.homePins) != 0 || !m.waitSpace.empty() {
		bad("%d chunks are reserved, %d wait for %d home writes, somebody waits: %v", a.reserved, len(m.deferred), len(m.homePins), !m.waitSpace.empty())
	}
	entries, slots, cached, dirty := 0, uint32(0), 0, 0
	for _, v := range m.vols {
		sum := int64(0)
		if v.notes != nil {
			entries++
			slots += uint32(v.notes.pages)
		}
		for _, e := range v.exts {
			entries++
			_, de := s.entryOf(e)
			if !e.inDir {
				bad("extent %d of volume %x is not in the directory", e.index, v.id)
				continue
			}
			sum += int64(de.chunks())
			for no, p := range e.pages {
				if de.ref(no) != 0 {
					slots++
				}
				if q := c.page(e, no); q != nil {
					for r := range regionsPerPage {
						if q.img.chunk(r) != noChunk && !q.img.anyPresent(r) {
							bad("region %d of page %d has a chunk and no block", r, no)
						}
					}
				}
				if p == nil {
					continue
				}
				cached++
				dirty += p.nDirty
				if !p.inDir || p.pins.Load() != 0 || p.clears != 0 || p.held != [regionsPerPage]uint16{} {
					bad("page %d: in the directory: %v, %d pins, %d clears, held %v", no, p.inDir, p.pins.Load(), p.clears, p.held)
				}
			}
		}
		if sum != v.chunks {
			bad("volume %x has %d chunks, its extents have %d", v.id, v.chunks, sum)
		}
	}
	if entries+len(m.extFree) != int(s.sb.maxExtents) || slots+m.slots != s.sb.pageSlots {
		bad("%d entries are free and %d used of %d; %d page slots are free and %d used of %d",
			len(m.extFree), entries, s.sb.maxExtents, m.slots, slots, s.sb.pageSlots)
	}
	if cached != m.pages.count || dirty != m.bufs.used() {
		bad("%d pages are in memory, %d are counted; %d blocks are dirty, %d buffers in use", cached, m.pages.count, dirty, m.bufs.used())
	}
	return errors.Join(errs...)
}

func wantAccounted(t *testing.T, s *Store) {
	t.Helper()
	if err := accounted(s); err != nil {
		t.Fatal(err)
	}
}

// spaceRun is a workload on a disk that is nearly full, many ops at a time.
type spaceRun struct {
	t      *testing.T
	rng    *rand.Rand
	d      *sim.Sim
	disk   *failing
	s      *Store
	vols   [2]*Vol
	blocks [2][]spaceBlock
	flying map[*Op]bool // whether it must not be refused
	seq    uint64
	seen   map[string]int
}

// spaceBlock is what is known of a block: it exists, as far as was acknowledged, and so many
// clears of it are on their way.
type spaceBlock struct {
	exists bool
	clears int
	unsure bool // a clear has met another op: the order is not known
}

const (
	spaceSpans  = 6 // of each volume, two of each extent
	spaceChunks = 40
	spaceDisk   = 2*superBytes + 2*BlockBytes*(1+1+16) + minLogBytes + spaceChunks*ChunkBytes + ChunkBytes + superBytes
)

// spaceOff is where block b of those that a run is about is in its volume; spaceIndex is which of them is there.
func spaceOff(b int64) int64 {
	return b/blocksPerPage*(ExtentBytes/2) + b%blocksPerPage*BlockBytes
}

func spaceIndex(off int64) int64 {
	return off/(ExtentBytes/2)*blocksPerPage + off%SpanBytes/BlockBytes
}

func newSpaceRun(t *testing.T, seed uint64) *spaceRun {
	w := &spaceRun{t: t, rng: rand.New(rand.NewPCG(seed, 17)), d: sim.New(spaceDisk, sim.Options{Seed: seed}), flying: map[*Op]bool{}, seen: map[string]int{}}
	if err := Format(w.d, FormatOptions{UUID: [16]byte{byte(seed), 3}, LogBytes: minLogBytes, MaxExtents: 14, MaxPages: 16}); err != nil {
		t.Fatal(err)
	}
	for i := range w.blocks {
		w.blocks[i] = make([]spaceBlock, spaceSpans*blocksPerPage)
	}
	w.disk = &failing{Disk: w.d, pick: func(io *disk.IO) error {
		if x, ok := io.Tag.(*opIO); ok && x.op.Kind == OpWrite && w.rng.IntN(8) == 0 {
			return syscall.EIO
		}
		return nil
	}}
	w.open()
	return w
}

func (w *spaceRun) options() Options {
	return Options{DirtyBytes: 48 * BlockBytes, PagesMax: 4, BatchBlocks: 32, InFlight: 3}
}

func (w *spaceRun) open() {
	s, err := Open(w.disk, w.options())
	if err != nil {
		w.t.Fatal(err)
	}
	w.s = s
	for i := range w.vols {
		if w.vols[i], err = s.OpenVolume(VolumeID{byte(i + 1)}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// solid tells whether each region of op has a block that nobody clears.
func (w *spaceRun) solid(op *Op) bool {
	blocks := w.blocks[op.Tag.(int)]
	for off := op.Off / ChunkBytes * ChunkBytes; off < op.Off+int64(op.Len); off += ChunkBytes {
		solid := false
		for _, b := range blocks[spaceIndex(off):][:blocksPerChunk] {
			solid = solid || b.exists && b.clears == 0 && !b.unsure
		}
		if !solid {
			return false
		}
	}
	return true
}

func (w *spaceRun) submit() {
	rng, i := w.rng, w.rng.IntN(2)
	n := int64(1 + rng.IntN(4))
	if rng.IntN(3) == 0 {
		n = int64(8 + rng.IntN(3*blocksPerChunk))
	}
	b := rng.Int64N(blocksPerPage - n)
	if rng.IntN(4) != 0 { // meet others
		b %= 11 * blocksPerChunk
	}
	if rng.IntN(3) == 0 {
		b = b / blocksPerChunk * blocksPerChunk
	}
	n = min(n, blocksPerPage-b)
	if rng.IntN(8) == 0 { // where there may be nothing yet
		b += int64(rng.IntN(spaceSpans)) * blocksPerPage
	}
	w.seq++
	op := &Op{Vol: w.vols[i], Off: spaceOff(b), Len: int(n) * BlockBytes, Ver: Version{1, w.seq}, Tag: i}
	switch x := rng.IntN(10); {
	case x < 6:
		op.Kind, op.Data = OpWrite, [][]byte{make([]byte, op.Len)}
	case x < 9:
		op.Kind = OpClear
	default:
		op.Kind = OpZero
	}
	if i == 1 && n <= blocksPerChunk { // a larger one may be too large for the log as a whole
		op.Note = &Note{Stable: w.seq - min(w.seq, 20), Tail: rng.IntN(2) == 0}
	}
	blocks := w.blocks[i][b:][:n]
	if op.Kind == OpClear {
		for k := range blocks {
			blocks[k].clears++
		}
	}
	for other := range w.flying {
		if other.Tag == op.Tag && (other.Kind == OpClear) != (op.Kind == OpClear) {
			from, to := max(op.Off, other.Off), min(op.Off+int64(op.Len), other.Off+int64(other.Len))
			for ; from < to; from += BlockBytes {
				w.blocks[i][spaceIndex(from)].unsure = true
			}
		}
	}
	if op.Kind == OpClear {
		for other, must := range w.flying {
			w.flying[other] = must && w.solid(other)
		}
	}
	w.flying[op] = op.Kind == OpClear || w.solid(op)
	op.Done = func(*Op) {
		must := w.flying[op]
		delete(w.flying, op)
		w.seen[fmt.Sprint("kind ", op.Kind)]++
		if op.byLog || op.Kind == OpZero && op.held != 0 {
			w.seen["squeezed"]++
		}
		for k := range blocks {
			if op.Kind == OpClear {
				blocks[k].clears--
			}
			blocks[k].exists = op.Err == nil && op.Kind != OpClear || op.Err != nil && blocks[k].exists
		}
		switch {
		case op.Err == nil:
		case errors.Is(op.Cause, syscall.EIO):
			w.seen["failed"]++
		case !errors.Is(op.Err, blockdev.ErrNoSpace):
			w.t.Errorf("op of kind %d: %v: %v", op.Kind, op.Err, op.Cause)
		case must:
			w.t.Errorf("op of kind %d, %d bytes at %d of volume %d, is refused, and needs no space: %v", op.Kind, op.Len, op.Off, i, op.Cause)
		default:
			w.seen["no space"]++
		}
	}
	w.s.Submit([]*Op{op})
}

// drop makes a part of a volume one that was never written, or all of it, or nothing.
func (w *spaceRun) drop() {
	i, from, to := w.rng.IntN(2), int64(0), int64(spaceSpans*blocksPerPage)
	var err error
	switch w.rng.IntN(4) {
	case 0:
		w.s.CloseVolume(w.vols[i])
		if err = w.s.DeleteVolume(VolumeID{byte(i + 1)}); err == nil {
			w.vols[i], err = w.s.OpenVolume(VolumeID{byte(i + 1)})
		}
		w.seen["deleted"]++
	case 1:
		err = w.s.FreeExtents(w.vols[i], []uint32{0, 2})
		copy(w.blocks[i][4*blocksPerPage:], make([]spaceBlock, 2*blocksPerPage))
		to = 2 * blocksPerPage
	case 2:
		from = w.rng.Int64N(to)
		err = w.s.ClearFrom(w.vols[i], spaceOff(from))
	default:
		return
	}
	if err != nil {
		w.t.Fatal(err)
	}
	clear(w.blocks[i][from:to])
}

// owned counts the chunks that the volumes have, of which nothing is in flight.
func (w *spaceRun) owned() (n int) {
	for i := range w.blocks {
		for r := 0; r < len(w.blocks[i]); r += blocksPerChunk {
			for _, b := range w.blocks[i][r:][:blocksPerChunk] {
				if b.exists {
					n++
					break
				}
			}
		}
	}
	return n
}

// settled has all ops done and verifies what is free.
func (w *spaceRun) settled(when string) {
	w.t.Helper()
	w.d.Drain()
	if len(w.flying) > 0 {
		w.t.Fatalf("%s: %d ops never ended", when, len(w.flying))
	}
	w.d.SetMode(sim.Inline, false, 1)
	for i := range w.blocks {
		for b := range w.blocks[i] {
			if known := &w.blocks[i][b]; known.unsure {
				exists, _, err := w.s.Mapped(w.vols[i], spaceOff(int64(b)), BlockBytes)
				if err != nil {
					w.t.Fatal(err)
				}
				known.exists, known.unsure = exists, false
			}
		}
	}
	if err := accounted(w.s); err != nil {
		w.t.Fatalf("%s: %v", when, err)
	}
	if st := w.s.Stats(); st.AvailableBytes+st.QuarantineBytes != (spaceChunks-int64(w.owned()))*ChunkBytes || st.UsedBytes != int64(w.owned())*ChunkBytes {
		w.t.Fatalf("%s: %d bytes are available and %d used, with %d chunks in use of %d", when, st.AvailableBytes, st.UsedBytes, w.owned(), spaceChunks)
	}
}

// Space is neither lost nor given out twice, and nobody is refused who needs none: random ops, many at a time, on a
// disk that is full most of the time; what is free is what no volume has, after all of them, after each new open, and
// after power cuts.
func TestSpaceIsAccountedFor(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(40) {
		w := newSpaceRun(t, seed)
		if got := int64(w.s.sb.chunks); got != spaceChunks {
			t.Fatalf("the disk has %d chunks, want %d", got, spaceChunks)
		}
		ready := w.d.Events()
		depth := 1 + w.rng.IntN(16)
		for round := range 4 {
			w.d.SetMode(sim.Manual, true, w.rng.Uint64())
			for range 60 {
				w.submit()
				for len(w.flying) >= depth {
					if !w.d.Step() {
						t.Fatalf("seed %d: %d ops in flight and no I/O: the store is stuck", seed, len(w.flying))
					}
				}
			}
			w.settled(fmt.Sprintf("seed %d round %d", seed, round))
			w.drop()
			w.settled(fmt.Sprintf("seed %d round %d, dropped", seed, round))
			before := w.s.Stats()
			if round%2 == 0 {
				if err := w.s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			w.open()
			w.settled(fmt.Sprintf("seed %d round %d, open again", seed, round))
			after := w.s.Stats()
			if after.AvailableBytes != before.AvailableBytes+before.QuarantineBytes || after.MetaPages != before.MetaPages || after.Extents != before.Extents {
				t.Fatalf("seed %d round %d: open again there are %d bytes free, %d pages, %d extents, before %d, %d, %d", seed, round,
					after.AvailableBytes, after.MetaPages, after.Extents, before.AvailableBytes+before.QuarantineBytes, before.MetaPages, before.Extents)
			}
		}
		for range 12 {
			n := ready + w.rng.IntN(w.d.Events()-ready+1)
			img := w.d.Cut(n, sim.Policy(w.rng.IntN(sim.Policies)), w.rng.Uint64())
			s, err := Open(img, w.options())
			if err != nil {
				t.Fatal(err)
			}
			if err := accounted(s); err != nil {
				t.Fatalf("seed %d, cut after event %d: %v", seed, n, err)
			}
		}
		for k, n := range w.seen {
			seen[k] += n
		}
	}
	t.Log(seen)
	for _, k := range []string{"squeezed", "no space", "failed"} {
		if seen[k] < 20 {
			t.Errorf("%s: seen %d times", k, seen[k])
		}
	}
}
