package store

import (
	"fmt"

	"blockd.dev/internal/invariants"
)

// The functions here change the state as records say, once they are durable.
// Live ops and recovery share them. During recovery (replaying) regions that
// small writes fill get their chunk only at the end: the log does not name it,
// and any chunk that is free in between may be named by a later record.

// enter makes sure that the directory refers to p.
func (s *Store) enter(p *page) {
	e := p.ext
	b, de := s.entryOf(e)
	if !e.inDir {
		s.touchBlock(b)
		_, de = s.entryOf(e)
		de.set(e.vol.id, e.index)
		e.inDir = true
	}
	if e.based && de.base() != e.base {
		s.touchBlock(b)
		_, de = s.entryOf(e)
		de.setBase(e.base)
	}
	if !p.inDir {
		s.touchBlock(b)
		_, de = s.entryOf(e)
		de.setRef(p.no, p.slot+1, 0)
		p.inDir = true
	}
}

// own records that p's extent owns delta chunks more.
func (s *Store) own(p *page, delta int) {
	b, _ := s.entryOf(p.ext)
	s.touchBlock(b)
	_, de := s.entryOf(p.ext)
	de.setChunks(uint32(int(de.chunks()) + delta))
	p.ext.vol.chunks += int64(delta)
	s.mu.owned += int64(delta)
}

func (s *Store) markChunk(c uint32, on bool) {
	b := s.mu.bitmap[c/bitsPerBitmapBlock]
	s.touchBlock(b)
	b.img.setBit(c%bitsPerBitmapBlock, on)
}

func (s *Store) giveChunk(p *page, r int, c uint32) {
	s.markChunk(c, true)
	if p.img.chunk(r) == noChunk {
		s.own(p, 1)
	}
	p.img.setChunk(r, c)
	p.ver[r]++
}

// freeChunk frees the chunk that region r of p had. The record that does it is
// durable, so the chunk may be written again at once, unless a home write to it
// is still on its way (invariant 4).
func (s *Store) freeChunk(p *page, c uint32) {
	s.markChunk(c, false)
	if s.mu.homePins[c] > 0 {
		s.mu.deferred[c] = true
		return
	}
	s.mu.alloc.release(c)
}

// ensureChunk gives region r a chunk. resv tells that one is reserved.
func (s *Store) ensureChunk(t *turn, p *page, r int) {
	if p.img.chunk(r) != noChunk || s.mu.replaying {
		return
	}
	c, ok := s.mu.alloc.alloc(s.hint(p, r))
	if !ok {
		// Reservations make this impossible; writing on would lose data.
		invariants.Fail("no chunk for an acknowledged write")
		s.failLocked(t, fmt.Errorf("no chunk for volume %x extent %d although one was reserved", p.ext.vol.id, p.ext.index))
		return
	}
	s.giveChunk(p, r, c)
}

// dropHome forgets the dirty copy of block b.
func (s *Store) dropHome(p *page, b int) {
	if p.home == nil || p.home[b] == 0 {
		return
	}
	s.mu.bufs.put(p.home[b] - 1)
	p.home[b] = 0
	p.nDirty--
	if p.nDirty == 0 {
		s.mu.pages.homeSpare = append(s.mu.pages.homeSpare, p.home)
		p.home = nil
	}
}

// setHome makes dirty buffer buf the content of block b.
func (s *Store) setHome(p *page, b int, crc uint32, buf int32) {
	if p.home == nil {
		if n := len(s.mu.pages.homeSpare); n > 0 {
			p.home = s.mu.pages.homeSpare[n-1]
			s.mu.pages.homeSpare = s.mu.pages.homeSpare[:n-1]
		} else {
			p.home = new([blocksPerPage]int32)
		}
	}
	if old := p.home[b]; old != 0 {
		s.mu.bufs.put(old - 1)
	} else {
		p.nDirty++
	}
	p.home[b] = buf + 1
	p.img.setBits(b, true, false)
	p.img.setBlockCRC(b, crc)
}

// remap gives region r the chunk c, whose blocks have the given checksums.
func (s *Store) remap(p *page, r int, c uint32, crcs *[blocksPerChunk]uint32) {
	old := p.img.chunk(r)
	for i := range blocksPerChunk {
		b := r*blocksPerChunk + i
		s.dropHome(p, b)
		p.img.setBits(b, true, false)
		p.img.setBlockCRC(b, crcs[i])
	}
	if old == c {
		return // only when broken on purpose
	}
	s.giveChunk(p, r, c)
	if old != noChunk {
		s.freeChunk(p, old)
	}
}

// wipe makes blocks [b, b+n) holes, or zeroes that keep their space.
func (s *Store) wipe(t *turn, p *page, b, n int, keep bool, ver Version, exact bool) {
	for i := b; i < b+n; i++ {
		s.dropHome(p, i)
		p.img.setBits(i, keep, keep)
		p.img.setPoison(i, 0)
		p.img.setBlockCRC(i, 0)
	}
	for r := b / blocksPerChunk; r <= (b+n-1)/blocksPerChunk; r++ {
		p.img.takeVersion(r, ver, exact)
		if keep {
			s.ensureChunk(t, p, r)
			continue
		}
		if c := p.img.chunk(r); c != noChunk && !p.img.anyPresent(r) && p.held[r] == 0 {
			p.img.setChunk(r, noChunk)
			p.ver[r]++
			s.own(p, -1)
			s.freeChunk(p, c)
		}
	}
}

// apply makes a durable op visible. It returns false when the op goes on with
// another round.
func (s *Store) apply(t *turn, op *Op) (done bool) {
	switch {
	case op.Kind == opDrop:
		if e := op.Vol.exts[op.extent()]; e != nil {
			if err := s.dropExtent(e); err != nil {
				s.failLocked(t, err)
			}
		}
		return true
	case op.Kind == opForget:
		if err := s.dropNotes(op.Vol); err != nil {
			s.failLocked(t, err)
		}
		return true
	case op.Kind == OpNote || op.bare:
		s.applyNote(op)
		return true
	}
	p, exact := op.page, op.Note == nil || op.Note.Exact
	s.sawVersion(op.Ver)
	s.enter(p)
	s.touch(p)
	switch op.Kind {
	case OpClear:
		p.clears--
		op.clearing = false
		s.wipe(t, p, op.first, op.n, false, op.Ver, exact)
	case OpZero:
		s.wipe(t, p, op.first, op.n, true, op.Ver, exact)
	case OpPoison:
		s.poison(p, op.first, op.n, op.edges(0, op.n), op.Ver)
	default:
		s.heal(p, op.first+op.pos, op.end-op.pos, op.edges(op.pos, op.end))
		r0, r1 := op.regions(op.pos, op.end)
		k, c, i := 0, 0, op.pos
		for r := r0; r <= r1; r++ {
			if op.whole(r) {
				s.remap(p, r, op.chunks[c], (*[blocksPerChunk]uint32)(op.crcs[i:]))
				c++
				i += blocksPerChunk
			} else {
				for ; i < op.end && (op.first+i)/blocksPerChunk == r; i++ {
					s.setHome(p, op.first+i, op.crcs[i], op.blockBufs[k])
					k++
				}
				s.ensureChunk(t, p, r)
			}
			p.img.takeVersion(r, op.Ver, exact)
		}
		s.stats.writeBytes.Add(int64(op.end-op.pos) * BlockBytes)
		op.blockBufs, op.chunks = op.blockBufs[:0], op.chunks[:0]
	}
	s.enter(p) // the base of a new extent is known only now
	if op.Note != nil {
		s.applyNote(op)
	}
	r0, r1 := op.regions(op.pos, op.end)
	var mask uint32
	for r := r0; r <= r1; r++ {
		mask |= 1 << r
	}
	s.letGo(op, mask)
	return op.end == op.n
}

// sawVersion keeps NextSeq above v.
func (s *Store) sawVersion(v Version) {
	if v != NoVersion {
		s.mu.lastSeq = max(s.mu.lastSeq, v.Seq)
	}
}
