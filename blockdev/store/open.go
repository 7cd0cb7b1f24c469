package store

import (
	"bytes"
	"errors"
	"fmt"

	"blockd.dev/blockdev/disk"
)

// Open opens the store on d, which stays the caller's: close it after Close.
//
// Recovery (docs/ONDISK.md "Recovery"): load superblock, directory and bitmap;
// replay the log in memory; then a checkpoint, which brings the replayed data
// home, empties the log, and starts a new incarnation in which every older batch
// is void. A power cut during any of that leaves the old state and the old log,
// and the same happens again.
func Open(d disk.Disk, o Options) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s, err := load(d, o)
	if err != nil {
		return nil, fmt.Errorf("open store on %s: %w", d.Info().Path, err)
	}
	if err := s.mirrorSuper(); err != nil {
		return nil, fmt.Errorf("open store on %s: %w", d.Info().Path, err)
	}
	if err := s.replay(); err != nil {
		return nil, fmt.Errorf("open store on %s: %w", d.Info().Path, err)
	}
	s.doubt()
	s.sb.incarnation++
	s.seq.Store(s.mu.lastSeq)
	if err := s.Checkpoint(); err != nil {
		return nil, fmt.Errorf("open store on %s: recovery: %w", d.Info().Path, err)
	}
	s.mu.Lock()
	if n := int(o.DirtyBytes / BlockBytes); s.mu.bufs.total > n {
		s.mu.bufs.init(n) // recovery has grown it
	}
	s.mu.Unlock()
	for _, c := range []interface{ Store(int64) }{&s.stats.homeBytes, &s.stats.metaBytes, &s.stats.checkpoints, &s.stats.syncs} {
		c.Store(0)
	}
	return s, nil
}

// mirrorSuper makes superblock B equal to the one that is in use. The power may
// have failed between A and B; if it then failed again in the next write of A,
// B would be all there is, and its checkpoint is already half overwritten.
func (s *Store) mirrorSuper() error {
	io := newSyncIO(s.d)
	want, got := disk.NewAligned(superBytes), disk.NewAligned(superBytes)
	s.sb.encode(want)
	if err := io.read(got, s.sb.superBOff); err == nil && bytes.Equal(want, got) {
		return nil
	}
	return errors.Join(io.write(want, s.sb.superBOff), io.sync())
}

// Close waits for the ops in flight, makes a last checkpoint and marks the store
// clean. Ops submitted later end with ErrGone. It returns the failure that made
// the store read-only, if any.
func (s *Store) Close() error {
	t := s.newTurn()
	s.mu.Lock()
	if s.mu.closing != nil {
		s.mu.Unlock()
		return ErrClosed
	}
	ch := make(chan struct{})
	s.mu.closing = ch
	s.closing.Store(true) // before the count of reads is looked at, see readDone
	s.kick(t)
	s.mu.Unlock()
	s.run(t)
	<-ch
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.mu.failure
	s.mu.state = StateClosed
	return err
}

// load reads the state of the last checkpoint.
func load(d disk.Disk, o Options) (*Store, error) {
	sb, err := readSuper(d)
	if err != nil {
		return nil, err
	}
	s := &Store{d: d, sb: *sb, opts: o}
	s.onBatch, s.onSync, s.onPage, s.onCheckpoint = s.batchDone, s.syncDone, s.pageLoaded, s.checkpointDone
	s.turns.New = func() any { return &turn{} }
	m := &s.mu
	m.vols, m.watchers = make(map[VolumeID]*Vol), make(map[int]func(Event))
	m.homePins, m.deferred, m.bad = make(map[uint32]int32), make(map[uint32]bool), make(map[uint32]bool)
	m.slotCur, m.slotOut = make([]uint64, (sb.pageSlots+63)/64), make([]uint64, (sb.pageSlots+63)/64)
	m.slots = sb.pageSlots
	m.pages.init(o.PagesMax)
	m.bufs.init(int(o.DirtyBytes / BlockBytes))
	m.lg.size, m.lg.seq = sb.logBytes, sb.logSeq
	m.lg.head = disk.NewAligned(maxHeadBlocks * BlockBytes)
	m.ck.super = disk.NewAligned(superBytes)
	m.lastSeq = sb.lastSeq
	m.logEdges = sb.incompat&featPoison != 0
	m.alloc = newAllocator(sb.chunks)

	io := newSyncIO(d)
	if m.dir, err = s.loadBlocks(io, kindDir, sb.dirBlocks, 0); err != nil {
		return nil, err
	}
	if m.bitmap, err = s.loadBlocks(io, kindBitmap, sb.bmBlocks, int(sb.dirBlocks)); err != nil {
		return nil, err
	}
	used := uint32(0)
	for i, b := range m.bitmap {
		for j := range uint32(bitsPerBitmapBlock) {
			if !b.img.bit(j) {
				continue
			}
			c := uint32(i)*bitsPerBitmapBlock + j
			if c >= sb.chunks {
				return nil, fmt.Errorf("%w: bitmap block %d: chunk %d of %d is in use", ErrCorrupt, i, c, sb.chunks)
			}
			m.alloc.take(c)
			used++
		}
	}
	owned, err := s.loadExtents()
	if err != nil {
		return nil, err
	}
	if owned != int64(used) {
		return nil, fmt.Errorf("%w: extents own %d chunks, the bitmap has %d", ErrCorrupt, owned, used)
	}
	m.owned = owned
	return s, nil
}

// loadBlocks reads the current copies of n directory or bitmap blocks, whose
// selectors start at bit sel.
func (s *Store) loadBlocks(io *syncIO, kind byte, n uint32, sel int) ([]*abBlock, error) {
	const window = 64 // block pairs per read
	list := make([]*abBlock, n)
	buf := disk.NewAligned(2 * BlockBytes * int(min(n, window)))
	for first := uint32(0); first < n; first += window {
		count := min(n-first, window)
		part := buf[:2*BlockBytes*count]
		b := &abBlock{kind: kind, index: first}
		if err := io.read(part, s.blockOff(b, false)); err != nil {
			return nil, fmt.Errorf("read of %ss: %w", kindName(kind), err)
		}
		for k := range count {
			i := first + k
			b := &abBlock{kind: kind, index: i, img: s.image()}
			bit := sel + int(i)
			b.copyB = s.sb.selectors[bit/8]&(1<<(bit%8)) != 0
			at := 2 * BlockBytes * k
			if b.copyB {
				at += BlockBytes
			}
			copy(b.img, part[at:at+BlockBytes])
			if err := b.img.check(kind, i, s.sb.uuid, s.sb.generation); err != nil {
				return nil, err
			}
			list[i] = b
		}
	}
	return list, nil
}

// loadExtents builds the volumes from the directory and returns how many chunks
// they own.
func (s *Store) loadExtents() (owned int64, err error) {
	m := &s.mu
	var noted []*notes
	for i := int64(s.sb.dirBlocks)*dirEntriesPerBlock - 1; i >= 0; i-- {
		de := m.dir[i/dirEntriesPerBlock].img.entry(int(i % dirEntriesPerBlock))
		if !de.used() {
			if i < int64(s.sb.maxExtents) {
				m.extFree = append(m.extFree, uint32(i))
			}
			continue
		}
		e := &extent{entry: uint32(i), base: noChunk}
		bad := func(what string) error {
			return fmt.Errorf("%w: directory entry %d (volume %x extent %d): %s", ErrCorrupt, i, de.vol(), de.extent(), what)
		}
		if i >= int64(s.sb.maxExtents) || de.vol() == (VolumeID{}) {
			return 0, bad("must not be in use")
		}
		v := s.vol(de.vol())
		if v.exts[de.extent()] != nil {
			return 0, bad("the extent has another entry")
		}
		if de.extent() == notesExtent {
			if v.notes != nil || de.chunks() != 0 {
				return 0, bad("the volume has other notes, or they own chunks")
			}
			v.notes = &notes{compactAt: compactMin, ext: extent{vol: v, index: notesExtent, entry: uint32(i), inDir: true, base: noChunk}}
			for p := range notesPagesMax {
				ref := de.ref(p)
				if ref == 0 {
					break
				}
				slot, ok := s.slotOf(ref)
				if !ok {
					return 0, bad(fmt.Sprintf("notes page %d: slot %d is out of range or taken", p, slot))
				}
				v.notes.ext.pages[p] = &page{ext: &v.notes.ext, no: p, slot: slot, inDir: true, resident: true}
				v.notes.pages++
			}
			if v.notes.pages == 0 {
				return 0, bad("notes without a page")
			}
			noted = append(noted, v.notes)
			continue
		}
		if int64(de.extent()) >= maxVolumeBytes/ExtentBytes || de.chunks() > chunksPerRun {
			return 0, bad("numbers out of range")
		}
		e.vol, e.index, e.inDir = v, de.extent(), true
		if b := de.base(); b != noChunk {
			e.base, e.based = b, true
		}
		v.exts[e.index] = e
		v.chunks += int64(de.chunks())
		owned += int64(de.chunks())
		for p := range pagesPerExtent {
			ref := de.ref(p)
			if ref == 0 {
				continue
			}
			if slot, ok := s.slotOf(ref); !ok {
				return 0, bad(fmt.Sprintf("page %d: slot %d is out of range or taken", p, slot))
			}
		}
	}
	for _, n := range noted {
		_, de := s.entryOf(&n.ext)
		s.loadNotes(n, de)
	}
	return owned, nil
}

// slotOf takes the page slot that the directory refers to by ref.
func (s *Store) slotOf(ref uint32) (slot uint32, ok bool) {
	m := &s.mu
	slot = ref&^refCopyB - 1
	if slot >= s.sb.pageSlots || m.slotOut[slot/64]&(1<<(slot%64)) != 0 {
		return slot, false
	}
	m.slotOut[slot/64] |= 1 << (slot % 64)
	m.slots--
	if ref&refCopyB != 0 {
		m.slotCur[slot/64] |= 1 << (slot % 64)
	}
	return slot, true
}

// logReader reads the log through a window.
type logReader struct {
	s    *Store
	io   *syncIO
	buf  []byte // holds the largest batch
	base int64
	n    int64
}

// readStep is how much of the log is read at once. Others may write to the same device and sync it meanwhile, and
// each of their requests waits for one of these: 0.1 ms where it reads 1 GB/s.
const readStep = 128 << 10

func newLogReader(s *Store) *logReader {
	return &logReader{s: s, io: newSyncIO(s.d), buf: disk.NewAligned(int(roundUp((maxHeadBlocks+maxBatchBlocks)*BlockBytes, readStep)))}
}

// at returns n bytes at off of the log, which has them; they are valid until the next call.
func (r *logReader) at(off, n int64) ([]byte, error) {
	if off < r.base || off >= r.base+r.n {
		r.base, r.n = off, 0
	}
	if off+n > r.base+int64(len(r.buf)) {
		kept := copy(r.buf, r.buf[off-r.base:r.n])
		r.base, r.n = off, int64(kept)
	}
	for off+n > r.base+r.n {
		next := r.base + r.n
		step := min(readStep, int64(len(r.buf))-r.n, r.s.sb.logBytes-next)
		if err := r.io.read(r.buf[r.n:r.n+step], r.s.sb.logOff+next); err != nil {
			return nil, fmt.Errorf("read of the log: %w", err)
		}
		r.n += step
	}
	return r.buf[off-r.base : off-r.base+n], nil
}

// batch returns the whole batch at off when there is a whole one with the given
// sequence.
func (r *logReader) batch(off int64, seq uint64, recs []record) (b batchInfo, head, data []byte, _ []record, ok bool, err error) {
	s := r.s
	p, err := r.at(off, BlockBytes)
	if err != nil {
		return b, nil, nil, recs, false, err
	}
	b, ok = peekBatch(p, s.sb.uuid)
	if !ok || b.incarnation != s.sb.incarnation || b.seq != seq || off+b.bytes() > s.sb.logBytes {
		return b, nil, nil, recs, false, nil
	}
	if p, err = r.at(off, b.bytes()); err != nil {
		return b, nil, nil, recs, false, err
	}
	head, data = p[:b.headBlocks*BlockBytes], p[b.headBlocks*BlockBytes:]
	if ok, err = checkBatch(head); !ok || err != nil {
		return b, nil, nil, recs, false, err
	}
	if recs, err = decodeRecords(head, b, recs[:0]); err != nil {
		return b, nil, nil, recs, false, err
	}
	for _, rec := range recs {
		for i := 0; rec.typ == recWrite && i < rec.count; i++ {
			k := (rec.data + i) * BlockBytes
			if checksum(data[k:k+BlockBytes]) != recordCRC(rec, i) && !s.opts.breakage.noLogCRC {
				return b, nil, nil, recs, false, nil // torn
			}
		}
	}
	return b, head, data, recs, true, nil
}

// replay applies the log in memory.
func (s *Store) replay() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.replaying = true
	t := s.newTurn()
	r := newLogReader(s)
	pos, seq, total := s.sb.logTail, s.sb.logSeq, int64(0)
	var recs []record
	for total < s.sb.logBytes {
		// A batch that did not fit before the end is at the start.
		places := [2]int64{pos, 0}
		var b batchInfo
		var data []byte
		ok := false
		for _, off := range places {
			if off >= s.sb.logBytes {
				continue
			}
			var err error
			if b, _, data, recs, ok, err = r.batch(off, seq, recs); err != nil {
				return err
			}
			if ok {
				pos = off
				break
			}
		}
		if !ok {
			break
		}
		if b.generation > s.sb.generation {
			return fmt.Errorf("%w: log batch %d was written after checkpoint %d, the superblock is from checkpoint %d: the newest superblock is lost",
				ErrCorrupt, b.seq, b.generation, s.sb.generation)
		}
		for _, rec := range recs {
			if err := s.replayRecord(t, rec, data); err != nil {
				return fmt.Errorf("log batch %d: %w", b.seq, err)
			}
		}
		pos += b.bytes()
		total += b.bytes()
		seq++
		s.stats.replayedBatches.Add(1)
	}
	if err := s.lookPast(r, pos, seq); err != nil {
		return err
	}
	s.mu.replaying = false
	s.mu.lg.seq = seq
	return s.settle(t)
}

// lookPast refuses a log that goes on after end, where replay stopped: a
// batch is only started when the one before it is durable, so the one that fails
// its check was acknowledged and is damaged. What was replayed is not read again.
func (s *Store) lookPast(r *logReader, end int64, seq uint64) error {
	if s.sb.clean {
		return nil
	}
	behind := func(at int64) int64 { // the tail, around the ring
		if at < s.sb.logTail {
			at += s.sb.logBytes
		}
		return at - s.sb.logTail
	}
	for off := int64(0); off < s.sb.logBytes; off += BlockBytes {
		if behind(off) < behind(end) {
			continue
		}
		p, err := r.at(off, BlockBytes)
		if err != nil {
			return err
		}
		b, ok := peekBatch(p, s.sb.uuid)
		if !ok || b.incarnation != s.sb.incarnation || b.seq <= seq || off+b.bytes() > s.sb.logBytes {
			continue
		}
		head, err := r.at(off, int64(b.headBlocks)*BlockBytes)
		if err != nil {
			return err
		}
		if ok, _ := checkBatch(head); ok {
			return fmt.Errorf("%w: log batch %d is damaged, but batch %d after it is whole: acknowledged writes are lost", ErrCorrupt, seq, b.seq)
		}
	}
	return nil
}

func (s *Store) replayRecord(t *turn, rec record, data []byte) error {
	inNotes := rec.extent == notesExtent && (rec.typ == recNote || rec.typ == recDrop)
	if rec.vol == (VolumeID{}) || !inNotes && (rec.typ == recNote || int64(rec.extent) >= maxVolumeBytes/ExtentBytes) {
		return fmt.Errorf("%w: record for volume %x extent %d", ErrCorrupt, rec.vol, rec.extent)
	}
	v := s.vol(rec.vol)
	s.sawVersion(rec.ver)
	if rec.typ == recNote {
		return s.replayNote(v, rec.note, rec.ver)
	}
	if rec.typ == recDrop && inNotes {
		return s.dropNotes(v)
	}
	if rec.typ == recDrop {
		if e := v.exts[rec.extent]; e != nil {
			return s.dropExtent(e)
		}
		return nil
	}
	p, err := s.pageNow(v, rec.extent, rec.block/blocksPerPage)
	if err != nil {
		return err
	}
	s.enter(p)
	s.touch(p)
	b, exact := rec.block%blocksPerPage, rec.exact || s.opts.breakage.noHigher
	switch rec.typ {
	case recWrite:
		s.heal(p, b, rec.count, rec.edges)
		for i := range rec.count {
			if len(s.mu.bufs.free) == 0 {
				s.mu.bufs.growAny()
			}
			buf := s.mu.bufs.get()
			k := (rec.data + i) * BlockBytes
			copy(s.mu.bufs.bytes(buf), data[k:k+BlockBytes])
			s.setHome(p, b+i, recordCRC(rec, i), buf)
		}
		for r := b / blocksPerChunk; r <= (b+rec.count-1)/blocksPerChunk; r++ {
			p.img.takeVersion(r, rec.ver, exact)
		}
	case recRemap:
		s.heal(p, b, rec.count, rec.edges)
		for i := range rec.count / blocksPerChunk {
			q := rec.payload[i*remapBytes:]
			c := leU32(q)
			if c >= s.sb.chunks || !s.mu.alloc.take(c) {
				return fmt.Errorf("%w: chunk %d given to volume %x extent %d is in use or out of range", ErrCorrupt, c, rec.vol, rec.extent)
			}
			r := b/blocksPerChunk + i
			var crcs [blocksPerChunk]uint32
			for k := range crcs {
				crcs[k] = leU32(q[4+4*k:])
			}
			s.remap(p, r, c, &crcs)
			p.img.takeVersion(r, rec.ver, exact)
		}
	case recClear:
		s.wipe(t, p, b, rec.count, false, rec.ver, exact)
	case recZero:
		s.wipe(t, p, b, rec.count, true, rec.ver, exact)
	case recPoison:
		s.poison(p, b, rec.count, rec.edges, rec.ver)
	}
	if rec.noted {
		return s.replayNote(v, rec.note, rec.ver)
	}
	return nil
}

// settle gives chunks to the regions that the log filled.
func (s *Store) settle(t *turn) error {
	for _, p := range s.mu.pages.dirty {
		if p.dead {
			continue
		}
		for r := range regionsPerPage {
			if p.img.chunk(r) != noChunk || !p.img.anyPresent(r) {
				continue
			}
			if s.mu.alloc.free == 0 {
				return fmt.Errorf("%w: no chunk for data in the log", ErrCorrupt)
			}
			s.ensureChunk(t, p, r)
		}
		s.enter(p)
	}
	return nil
}

// pageNow finds, reads or makes a page, waiting for the disk.
func (s *Store) pageNow(v *Vol, index uint32, no int) (*page, error) {
	e := v.exts[index]
	if e == nil {
		n := len(s.mu.extFree)
		if n == 0 {
			return nil, fmt.Errorf("%w: no directory entry for data in the log", ErrCorrupt)
		}
		e = &extent{vol: v, index: index, entry: s.mu.extFree[n-1], base: noChunk}
		s.mu.extFree = s.mu.extFree[:n-1]
		v.exts[index] = e
	}
	if e.pages[no] != nil {
		return e.pages[no], nil
	}
	p := &page{ext: e, no: no, img: s.image()}
	_, de := s.entryOf(e)
	if ref := de.ref(no); e.inDir && ref != 0 {
		p.slot, p.inDir, p.crc = ref&^refCopyB-1, true, de.refCRC(no)
		err := newSyncIO(s.d).read(p.img, s.slotOff(p.slot, ref&refCopyB != 0))
		if err = errors.Join(err, s.checkPage(p)); err != nil {
			return nil, err
		}
	} else {
		slot, ok := s.takeSlot()
		if !ok {
			return nil, fmt.Errorf("%w: no page slot for data in the log", ErrCorrupt)
		}
		p.slot = slot
		p.img.init(kindPage, slot, s.sb.uuid)
		p.img.setPageID(v.id, index, no)
	}
	e.pages[no] = p
	s.mu.pages.count++
	s.mu.pages.list(p)
	return p, nil
}

// dropExtent removes an extent whose chunks are all free from the directory.
func (s *Store) dropExtent(e *extent) error {
	b, de := s.entryOf(e)
	if e.inDir && de.chunks() != 0 {
		return fmt.Errorf("%w: extent %d of volume %x is dropped with %d chunks", ErrCorrupt, e.index, e.vol.id, de.chunks())
	}
	for no, p := range e.pages {
		var ref uint32
		if e.inDir {
			_, de := s.entryOf(e)
			ref = de.ref(no)
		}
		switch {
		case p != nil:
			s.freeSlot(p.slot)
			p.dead = true
			s.mu.pages.unlist(p)
			if !p.resident {
				s.mu.pages.count--
			}
			e.pages[no] = nil
			// A read that began before may still look at the image, and find
			// that the regions' versions have moved.
			if p.pins.Load() == 0 && !p.loading {
				if p.snap == nil || &p.snap[0] != &p.img[0] {
					s.putImage(p.img)
				}
				p.img = nil
			}
		case ref != 0:
			s.freeSlot(ref&^refCopyB - 1)
		}
	}
	if e.inDir {
		s.touchBlock(b)
		_, de = s.entryOf(e)
		clear(de)
	}
	delete(e.vol.exts, e.index)
	s.mu.extFree = append(s.mu.extFree, e.entry)
	return nil
}
