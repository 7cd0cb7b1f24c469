package store

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/bits"
	"slices"

	"blockd.dev/blockdev/disk"
)

// Report is what Check found.
type Report struct {
	UUID           [16]byte
	Generation     uint64
	Clean          bool // closed properly: no log to replay
	LogBatches     int64
	Volumes        int
	Extents        int
	MetaPages      int // of data
	Chunks         int
	ChunksTotal    int
	Blocks         int64 // whose checksum was verified
	Poisoned       int64 // sectors that hosts made unreadable, which is no problem
	Replicas       int   // volumes with notes: parts of replicated volumes
	TailEntries    int   // of these: writes above their watermarks
	NoVersion      int64 // regions without a version, to be copied from other replicas
	Unproven       int   // of Replicas: to be held against others, as the machine went down
	Problems       int   // 0: the store is whole
	SuperblockNote string
}

// Check verifies the store on d from end to end without writing: superblocks,
// directory, bitmap, pages, the log, and the checksum of every block as it will
// be after recovery. It prints each problem on a line of its own to w, and
// returns an error only when the disk can't be read or holds no store.
func Check(d disk.Disk, w io.Writer) (Report, error) {
	var o Options
	if err := o.Validate(); err != nil {
		return Report{}, err
	}
	o.DirtyBytes = minDirtyBlocks * BlockBytes // grows as the log asks
	c := &checker{w: w}
	s, err := load(d, o)
	if err != nil {
		if errors.Is(err, ErrCorrupt) {
			c.problem("%v", err)
			return c.r, nil
		}
		return c.r, fmt.Errorf("check of %s: %w", d.Info().Path, err)
	}
	c.s = s
	c.r.UUID, c.r.Generation, c.r.Clean, c.r.ChunksTotal = s.sb.uuid, s.sb.generation, s.sb.clean, int(s.sb.chunks)
	c.superblocks()
	c.structure("checkpoint")
	if err := s.replay(); err != nil {
		if !errors.Is(err, ErrCorrupt) {
			return c.r, fmt.Errorf("check of %s: %w", d.Info().Path, err)
		}
		c.problem("log: %v", err)
		c.notes()
		return c.r, nil
	}
	c.r.LogBatches = s.stats.replayedBatches.Load()
	c.structure("after the log")
	c.notes()
	c.data()
	return c.r, nil
}

type checker struct {
	s *Store
	w io.Writer
	r Report
}

func (c *checker) problem(format string, args ...any) {
	c.r.Problems++
	fmt.Fprintf(c.w, format+"\n", args...)
}

func (c *checker) superblocks() {
	p := disk.NewAligned(superBytes)
	io := newSyncIO(c.s.d)
	for _, sb := range []struct {
		name string
		off  int64
	}{{"A", 0}, {"B", c.s.sb.superBOff}} {
		err := io.read(p, sb.off)
		var got *superblock
		if err == nil {
			got, err = decodeSuper(p, c.s.d.SizeBytes())
		}
		switch {
		case err != nil:
			c.r.SuperblockNote = fmt.Sprintf("superblock %s at %d can't be used (%v); the next open rewrites it", sb.name, sb.off, err)
		case got.generation != c.s.sb.generation:
			c.r.SuperblockNote = fmt.Sprintf("superblock %s has generation %d, the newest is %d; the next open rewrites it", sb.name, got.generation, c.s.sb.generation)
		}
	}
}

// volumes lists the volumes in order.
func (c *checker) volumes() []*Vol {
	return slices.SortedFunc(maps.Values(c.s.mu.vols), func(a, b *Vol) int { return slices.Compare(a.id[:], b.id[:]) })
}

// each calls fn for every extent in order.
func (c *checker) each(fn func(e *extent)) {
	for _, v := range c.volumes() {
		for _, i := range slices.SortedFunc(maps.Keys(v.exts), cmp.Compare[uint32]) {
			fn(v.exts[i])
		}
	}
}

// page returns a page's image as it is in memory or on disk; nil when there is
// none or it is bad, which it reports.
func (c *checker) page(e *extent, no int) *page {
	if e.pages[no] != nil {
		return e.pages[no]
	}
	_, de := c.s.entryOf(e)
	ref := de.ref(no)
	if ref == 0 {
		return nil
	}
	p := &page{ext: e, no: no, img: disk.NewAligned(BlockBytes), slot: ref&^refCopyB - 1, crc: de.refCRC(no)}
	off := c.s.slotOff(p.slot, ref&refCopyB != 0)
	if err := newSyncIO(c.s.d).read(p.img, off); err != nil {
		c.problem("volume %x extent %d page %d: page at disk offset %d: %v", e.vol.id, e.index, no, off, err)
		return nil
	}
	if err := c.s.checkPage(p); err != nil {
		c.problem("volume %x extent %d page %d: page at disk offset %d: %v", e.vol.id, e.index, no, off, err)
		return nil
	}
	return p
}

// structure verifies that every chunk in use has exactly one owner, that the
// bitmap says the same, and that the directory counts right.
func (c *checker) structure(when string) {
	s := c.s
	owner := make(map[uint32]string)
	c.r.Volumes, c.r.Extents, c.r.MetaPages, c.r.Chunks = 0, 0, 0, 0
	var last *Vol
	badPages := false
	c.each(func(e *extent) {
		if e.vol != last {
			c.r.Volumes++
			last = e.vol
		}
		c.r.Extents++
		count := uint32(0)
		for no := range pagesPerExtent {
			before := c.r.Problems
			p := c.page(e, no)
			if p == nil {
				badPages = badPages || c.r.Problems != before
				continue
			}
			c.r.MetaPages++
			for r := range regionsPerPage {
				ch := p.img.chunk(r)
				if ch == noChunk {
					if p.img.anyPresent(r) {
						c.problem("%s: volume %x extent %d page %d region %d has blocks but no chunk", when, e.vol.id, e.index, no, r)
					}
					continue
				}
				count++
				me := fmt.Sprintf("volume %x extent %d region %d", e.vol.id, e.index, no*regionsPerPage+r)
				if ch >= s.sb.chunks {
					c.problem("%s: %s: chunk %d of %d", when, me, ch, s.sb.chunks)
				} else if owner[ch] != "" {
					c.problem("%s: chunk %d belongs to %s and to %s", when, ch, owner[ch], me)
				} else {
					owner[ch] = me
					if !s.mu.bitmap[ch/bitsPerBitmapBlock].img.bit(ch % bitsPerBitmapBlock) {
						c.problem("%s: chunk %d belongs to %s, the bitmap says it is free", when, ch, me)
					}
				}
			}
		}
		if _, de := s.entryOf(e); !badPages && de.chunks() != count {
			c.problem("%s: volume %x extent %d: directory says %d chunks, pages have %d", when, e.vol.id, e.index, de.chunks(), count)
		}
	})
	c.r.Chunks = len(owner)
	for ch := uint32(0); ch < s.sb.chunks && !badPages; ch++ {
		if s.mu.bitmap[ch/bitsPerBitmapBlock].img.bit(ch%bitsPerBitmapBlock) && owner[ch] == "" {
			c.problem("%s: chunk %d is marked in use and belongs to nobody", when, ch)
		}
	}
}

// notes counts what there is after the log, and reports what can't be used; load
// has verified it.
func (c *checker) notes() {
	for _, v := range c.volumes() {
		n := v.notes
		if n == nil {
			continue
		}
		if n.broken != nil {
			c.problem("volume %x: replica state: %v", v.id, n.broken)
		}
		c.r.Replicas++
		if len(v.exts) == 0 {
			c.r.Volumes++
		}
		c.r.TailEntries += n.above(n.stable)
		if n.unproven {
			c.r.Unproven++
		}
	}
}

// data reads every block that is home and verifies its checksum.
func (c *checker) data() {
	s := c.s
	buf := disk.NewAligned(ChunkBytes)
	io := newSyncIO(s.d)
	c.each(func(e *extent) {
		for no := range pagesPerExtent {
			p := e.pages[no]
			if p == nil {
				before := c.r.Problems
				if p = c.page(e, no); p == nil {
					c.r.Problems = min(c.r.Problems, before+1)
					continue
				}
			}
			for b := range blocksPerPage {
				c.r.Poisoned += int64(bits.OnesCount8(p.img.poison(b)))
			}
			for r := range regionsPerPage {
				if p.img.version(r) == NoVersion {
					c.r.NoVersion++
				}
				c.region(io, p, r, buf)
			}
		}
	})
}

func (c *checker) region(io *syncIO, p *page, r int, buf []byte) {
	onDisk := func(b int) bool {
		return p.img.present(b) && !p.img.zero(b) && (p.home == nil || p.home[b] == 0)
	}
	first, last := -1, -1
	for b := r * blocksPerChunk; b < (r+1)*blocksPerChunk; b++ {
		if onDisk(b) {
			if first < 0 {
				first = b
			}
			last = b
		}
	}
	if first < 0 {
		return
	}
	at := func(b int) int64 { return c.s.blockAddr(p.img.chunk(r), b) }
	volOff := func(b int) int64 {
		return int64(p.ext.index)*ExtentBytes + int64(p.no)*SpanBytes + int64(b)*BlockBytes
	}
	part := buf[:(last-first+1)*BlockBytes]
	whole := io.read(part, at(first)) == nil
	for b := first; b <= last; b++ {
		if !onDisk(b) {
			continue
		}
		q := part[(b-first)*BlockBytes:][:BlockBytes]
		if !whole {
			if err := io.read(q, at(b)); err != nil {
				c.problem("volume %x offset %d: block at disk offset %d: %v", p.ext.vol.id, volOff(b), at(b), err)
				continue
			}
		}
		c.r.Blocks++
		if got, want := checksum(q), p.img.blockCRC(b); got != want {
			c.problem("volume %x offset %d: block at disk offset %d has checksum %08x, want %08x", p.ext.vol.id, volOff(b), at(b), got, want)
		}
	}
}
