package store

import (
	"encoding/binary"
	"fmt"

	"blockd.dev/blockdev"
	"blockd.dev/internal/invariants"
)

// The state of replicated volumes. It lives in memory and changes when an op
// with a Note is applied. A checkpoint writes it, as it is at its log position
// (invariant 5), to pages of its own, which are page slots like those of data:
// two places, named by a directory entry. That entry has the extent number
// notesExtent, which no data has.
//
//	64 fenced u64   72 stable u64   80 last u64   88 entries u32   92 unproven u8   (page 0)
//	96 142 x { epoch u64, sequence u64, offset u64, length u32 }   (each page)
//
// The first entries of the tail are in page 0, the next in page 1. Pages are
// taken when the tail grows, before the op that makes it so is logged, so that a
// checkpoint never lacks one, and kept until the volume is deleted.
const (
	notesExtent = ^uint32(0)

	notesOffHead  = metaHeader
	notesOffTail  = notesOffHead + 32
	tailBytes     = 28
	tailPerPage   = (BlockBytes - notesOffTail) / tailBytes
	notesPagesMax = (TailMax + tailPerPage - 1) / tailPerPage
)

// All pages of a volume's notes stand in one directory entry.
const _ = uint(pagesPerExtent - notesPagesMax)

// featNotes is the incompatible feature of a store that had an op with a Note. A
// program that does not know it would lose them, and NoVersion.
const featNotes = 1 << 1

// featUnproven is the incompatible feature of a store of which the machine has gone down once: a program that does not know
// it would take an unproven replica at its word. It stays, since the disk may have lost a volume as a whole: each
// that is new to such a store is unproven at first. Only there is a Note with Vouch.
const featUnproven = 1 << 2

// notes are one volume's.
type notes struct {
	ext   extent
	pages int // of ext.pages, from the first on

	fenced, stable, last uint64
	unproven             bool
	// tail in the order of the ops. Entries up to stable are forgotten; they are
	// taken out when the tail has grown to compactAt.
	tail      []TailEntry
	compactAt int

	claims  int   // ops that were admitted and have not ended
	pending int   // entries of these
	dirty   bool  // in Store.mu.noted
	broken  error // the pages on disk can't be used, so nothing is known
}

// compactMin keeps short tails from being looked through at every op.
const compactMin = 64

// ReplicaState returns what v's notes say, as of the last op that is done; it is
// that of a new replica for a volume that never had one. The error says that it is lost.
func (s *Store) ReplicaState(v *Vol) (ReplicaState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := v.notes
	switch {
	case n == nil:
		return ReplicaState{Unproven: s.doubted()}, nil
	case n.broken != nil:
		return ReplicaState{}, fmt.Errorf("replica state of volume %x: %w", v.id, n.broken)
	}
	n.compact()
	st := ReplicaState{Fenced: n.fenced, Stable: n.stable, Last: n.last, Unproven: n.unproven}
	if len(n.tail) > 0 {
		st.Tail = append(st.Tail, n.tail...)
	}
	return st, nil
}

// newNotes makes the notes of v, with one page.
func (s *Store) newNotes(v *Vol) bool {
	free := len(s.mu.extFree)
	if free == 0 {
		return false
	}
	n := &notes{compactAt: compactMin, unproven: s.doubted()}
	n.ext = extent{vol: v, index: notesExtent, entry: s.mu.extFree[free-1], base: noChunk}
	if !s.growNotes(n) {
		return false
	}
	s.mu.extFree = s.mu.extFree[:free-1]
	v.notes = n
	return true
}

// growNotes takes one more page.
func (s *Store) growNotes(n *notes) bool {
	slot, ok := s.takeSlot()
	if !ok {
		return false
	}
	p := &page{ext: &n.ext, no: n.pages, slot: slot, resident: true, img: s.image()}
	p.img.init(kindNotes, slot, s.sb.uuid)
	p.img.setPageID(n.ext.vol.id, notesExtent, p.no)
	n.ext.pages[p.no] = p
	n.pages++
	return true
}

// fitNotes makes sure that pages for count entries are there.
func (s *Store) fitNotes(n *notes, count int) bool {
	for count > n.pages*tailPerPage {
		if !s.growNotes(n) {
			return false
		}
	}
	return true
}

// prepareNote gets ready what op's Note needs: a place in the tail, and the pages
// of the regions that it voids. When it returns false op has ended, or waits for
// a page and will be admitted again. Such pages may make the cache larger than
// Options.PagesMax, until one is loaded after the next checkpoint: an op that waited for room with pages in
// its hands could wait for itself.
func (s *Store) prepareNote(t *turn, op *Op) bool {
	if op.Note == nil {
		return true
	}
	if !op.claimed && !s.claimNote(t, op) {
		return false
	}
	for len(op.voids) < len(op.Note.Void) {
		p, found := s.findPage(t, op, op.Note.Void[len(op.voids)], pageForce)
		switch found {
		case pageReady:
			op.voids = append(op.voids, p)
			continue
		case pageFull:
			s.endWrite(t, op, blockdev.ErrNoSpace, errNoPages)
		}
		return false
	}
	return true
}

// claimNote makes the volume's notes when there are none, and a place in the
// tail for op.
func (s *Store) claimNote(t *turn, op *Op) bool {
	v := op.Vol
	if v.notes == nil && !s.newNotes(v) {
		s.endWrite(t, op, blockdev.ErrNoSpace, errNoPages)
		return false
	}
	n := v.notes
	if n.broken != nil {
		s.endWrite(t, op, blockdev.ErrMedium, n.broken)
		return false
	}
	if op.Note.Tail {
		// Most of the time, what may be in the tail at worst fits.
		need := len(n.tail) + n.pending + 1
		if need > min(n.pages*tailPerPage, TailMax) {
			n.compact()
			need = n.above(op.Note.Stable) + n.pending + 1
		}
		if need > TailMax {
			s.endWrite(t, op, blockdev.ErrBusy, fmt.Errorf("volume %x has %d writes above the watermark %d: at most %d, wait for a higher watermark",
				v.id, need-1, n.stable, TailMax))
			return false
		}
		if !s.fitNotes(n, need) {
			s.endWrite(t, op, blockdev.ErrNoSpace, errNoPages)
			return false
		}
		n.pending++
	}
	n.claims++
	op.claimed, op.vouches = true, op.Note.Vouch && n.unproven
	return true
}

// disclaim gives back what prepareNote got, and notes that were made for ops that were all refused.
func (s *Store) disclaim(op *Op) {
	for _, p := range op.voids {
		s.unpinLocked(p)
	}
	op.voids = op.voids[:0]
	if op.Note == nil || op.Vol.notes == nil {
		return
	}
	n := op.Vol.notes
	if op.claimed {
		op.claimed = false
		n.claims--
		if op.Note.Tail {
			n.pending--
		}
	}
	if n.claims == 0 && !n.ext.inDir && !n.dirty {
		_ = s.dropNotes(op.Vol) // can't fail: they are not in the directory
	}
}

// applyNote is the part of apply that is about op's Note.
func (s *Store) applyNote(op *Op) {
	for i, p := range op.voids {
		s.voidRegion(p, op.Note.Void[i])
	}
	rec := noteRecord{fence: op.Note.Fence, stable: op.Note.Stable, forget: op.Note.Forget, vouch: op.vouches, tail: op.tailOf()}
	s.changeNotes(op.Vol.notes, rec, op.noteVer())
}

// noteVer is the version of the write that op's Note goes with, if any.
func (op *Op) noteVer() Version {
	if op.Kind == OpNote {
		return Version{}
	}
	return op.Ver
}

func (s *Store) voidRegion(p *page, off int64) {
	s.enter(p)
	s.touch(p)
	p.img.setVersion(int(off%SpanBytes/ChunkBytes), NoVersion)
}

// changeNotes does to n what a durable note says.
func (s *Store) changeNotes(n *notes, rec noteRecord, ver Version) {
	s.sb.incompat |= featNotes // stands in the superblock of the checkpoint that writes n
	s.writeLater(n)
	if rec.vouch {
		n.unproven = false
	}
	n.fenced = max(n.fenced, rec.fence)
	n.stable = max(n.stable, rec.stable)
	n.last = max(n.last, n.stable)
	if ver != NoVersion {
		n.last = max(n.last, ver.Seq)
	}
	if rec.forget {
		n.tail = n.tail[:0]
	}
	if e := rec.tail; e.Len != 0 && e.Ver.Seq > n.stable {
		if len(n.tail) >= n.compactAt {
			n.compact()
		}
		n.tail = append(n.tail, e)
	}
}

// writeLater has the next checkpoint write n.
func (s *Store) writeLater(n *notes) {
	if !n.dirty && !s.opts.breakage.noNotes {
		n.dirty = true
		s.mu.noted = append(s.mu.noted, n)
	}
}

// doubt makes all replicas unproven when the machine has gone down since the store was last opened, and did not
// close it. A program that is killed loses nothing of what the disk was given. The checkpoint that ends the
// opening says so for good, and has this boot of the machine in its superblock: both or neither are durable.
func (s *Store) doubt() {
	noted := s.sb.boot
	s.sb.boot = s.opts.Boot
	if s.sb.clean || noted == s.opts.Boot || noted == (Boot{}) || s.opts.breakage.noDoubt {
		return
	}
	s.sb.incompat |= featUnproven
	for _, v := range s.mu.vols {
		if n := v.notes; n != nil && n.broken == nil {
			n.unproven = true
			s.writeLater(n)
		}
	}
}

// doubted tells whether the disk may have lost volumes that it had.
func (s *Store) doubted() bool { return s.sb.incompat&featUnproven != 0 }

// compact takes out of the tail what is forgotten.
func (n *notes) compact() {
	k := 0
	for _, e := range n.tail {
		if e.Ver.Seq > n.stable {
			n.tail[k] = e
			k++
		}
	}
	n.tail = n.tail[:k]
	n.compactAt = max(compactMin, 2*k)
}

// above counts the entries that a watermark leaves.
func (n *notes) above(stable uint64) (count int) {
	for _, e := range n.tail {
		if e.Ver.Seq > stable {
			count++
		}
	}
	return count
}

// replayNote does what a note in the log says.
func (s *Store) replayNote(v *Vol, rec noteRecord, ver Version) error {
	for i := 0; i < len(rec.voids)/8 && !s.opts.breakage.noVoids; i++ {
		off := rec.void(i)
		p, err := s.pageNow(v, uint32(off/ExtentBytes), int(off%ExtentBytes/SpanBytes))
		if err != nil {
			return err
		}
		s.voidRegion(p, off)
	}
	if v.notes == nil && !s.newNotes(v) {
		return fmt.Errorf("%w: no page slot for notes in the log", ErrCorrupt)
	}
	n := v.notes
	if n.broken != nil {
		return nil // stays lost; the volume can only be deleted
	}
	s.changeNotes(n, rec, ver)
	if len(n.tail) > n.pages*tailPerPage {
		n.compact()
	}
	if len(n.tail) > TailMax || !s.fitNotes(n, len(n.tail)) {
		return fmt.Errorf("%w: no room for a tail of %d writes in the log", ErrCorrupt, len(n.tail))
	}
	return nil
}

// dropNotes forgets v's notes.
func (s *Store) dropNotes(v *Vol) error {
	n := v.notes
	if n == nil {
		return nil
	}
	v.notes = nil
	n.dirty = false
	return s.dropExtent(&n.ext)
}

// writeNotes brings the pages of all notes that have changed up to date. The
// checkpoint that begins writes them.
func (s *Store) writeNotes() {
	for _, n := range s.mu.noted {
		if !n.dirty {
			continue // dropped
		}
		n.dirty = false
		n.compact()
		if invariants.Enabled && len(n.tail) > n.pages*tailPerPage {
			invariants.Fail("%d entries of a tail in %d pages", len(n.tail), n.pages)
		}
		rest := n.tail
		for no := 0; no == 0 || len(rest) > 0; no++ {
			p := n.ext.pages[no]
			s.enter(p)
			s.touch(p)
			if no == 0 {
				p.img.setNotesHead(n)
			}
			k := min(len(rest), tailPerPage)
			for i, e := range rest[:k] {
				p.img.setTail(i, e)
			}
			rest = rest[k:]
		}
	}
	clear(s.mu.noted)
	s.mu.noted = s.mu.noted[:0]
}

func (m metaBlock) setNotesHead(n *notes) {
	le := binary.LittleEndian
	le.PutUint64(m[notesOffHead:], n.fenced)
	le.PutUint64(m[notesOffHead+8:], n.stable)
	le.PutUint64(m[notesOffHead+16:], n.last)
	le.PutUint32(m[notesOffHead+24:], uint32(len(n.tail)))
	m[notesOffHead+28] = 0
	if n.unproven {
		m[notesOffHead+28] = 1
	}
}

func (m metaBlock) setTail(i int, e TailEntry) {
	le, p := binary.LittleEndian, m[notesOffTail+i*tailBytes:]
	le.PutUint64(p, e.Ver.Epoch)
	le.PutUint64(p[8:], e.Ver.Seq)
	le.PutUint64(p[16:], uint64(e.Off))
	le.PutUint32(p[24:], uint32(e.Len))
}

func (m metaBlock) tail(i int) TailEntry {
	le, p := binary.LittleEndian, m[notesOffTail+i*tailBytes:]
	return TailEntry{Ver: Version{Epoch: le.Uint64(p), Seq: le.Uint64(p[8:])}, Off: int64(le.Uint64(p[16:])), Len: int64(le.Uint32(p[24:]))}
}

// decode reads the state from n's pages, whose images were checked.
func (n *notes) decode() error {
	le, m := binary.LittleEndian, n.ext.pages[0].img
	n.fenced, n.stable, n.last = le.Uint64(m[notesOffHead:]), le.Uint64(m[notesOffHead+8:]), le.Uint64(m[notesOffHead+16:])
	n.unproven = m[notesOffHead+28] != 0
	count := int(le.Uint32(m[notesOffHead+24:]))
	if count > TailMax || count > n.pages*tailPerPage {
		return fmt.Errorf("%w: notes of volume %x: tail of %d writes in %d pages", ErrCorrupt, n.ext.vol.id, count, n.pages)
	}
	n.tail = make([]TailEntry, 0, count)
	for i := range count {
		e := n.ext.pages[i/tailPerPage].img.tail(i % tailPerPage)
		if !e.valid() {
			return fmt.Errorf("%w: notes of volume %x: write %d of the tail has %d bytes at %d", ErrCorrupt, n.ext.vol.id, i, e.Len, e.Off)
		}
		n.tail = append(n.tail, e)
	}
	n.compact()
	return nil
}

// loadNotes reads the notes of v, whose directory entry is de. What can't be
// used is kept from being served: it costs this volume, not the store.
func (s *Store) loadNotes(n *notes, de dirEntry) {
	io := newSyncIO(s.d)
	for no := range n.pages {
		p, ref := n.ext.pages[no], de.ref(no)
		p.crc = de.refCRC(no)
		p.img = s.image()
		err := io.read(p.img, s.slotOff(p.slot, ref&refCopyB != 0))
		if err == nil {
			err = s.checkImage(p, kindNotes)
		}
		if err != nil {
			n.broken = err
			return
		}
	}
	n.broken = n.decode()
}
