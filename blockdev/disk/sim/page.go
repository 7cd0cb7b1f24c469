package sim

import (
	"bytes"
	"math/rand/v2"

	"blockd.dev/blockdev/disk"
)

var (
	zeroes page
	// keep stands in a record's pages for a block that it leaves as it is.
	keep = new(page)
	junk = junkPage()
)

func junkPage() *page {
	p, r := new(page), rand.New(rand.NewPCG(1, 2))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// capture copies bufs into pages, nil for blocks of zeroes.
func capture(bufs [][]byte) []*page {
	var blocks int
	for _, b := range bufs {
		blocks += len(b) / disk.BlockBytes
	}
	pages := make([]*page, 0, blocks)
	for _, b := range bufs {
		for ; len(b) > 0; b = b[disk.BlockBytes:] {
			var p *page
			if !bytes.Equal(b[:disk.BlockBytes], zeroes[:]) {
				p = new(page)
				copy(p[:], b)
			}
			pages = append(pages, p)
		}
	}
	return pages
}

// same reports whether bufs still hold what pages captured.
func same(pages []*page, bufs [][]byte) bool {
	i := 0
	for _, b := range bufs {
		for ; len(b) > 0; b = b[disk.BlockBytes:] {
			if !bytes.Equal(b[:disk.BlockBytes], pages[i].bytes()) {
				return false
			}
			i++
		}
	}
	return true
}

// bytes is the content of p, where nil means zeroes.
func (p *page) bytes() []byte {
	if p == nil {
		return zeroes[:]
	}
	return p[:]
}

// torn returns old with those sectors taken from new whose bit in mask is set.
func torn(old, new *page, mask uint8) *page {
	switch mask {
	case 0:
		return old
	case 0xff:
		return new
	}
	p := &page{}
	copy(p[:], old.bytes())
	for i := range disk.BlockBytes / disk.SectorBytes {
		if mask>>i&1 != 0 {
			at := i * disk.SectorBytes
			copy(p[at:at+disk.SectorBytes], new.bytes()[at:])
		}
	}
	return p
}

func flipPageBit(pages []*page, chance uint64) {
	bit := chance % (uint64(len(pages)) * disk.BlockBytes * 8)
	i := bit / (disk.BlockBytes * 8)
	p := &page{}
	copy(p[:], pages[i].bytes())
	p[bit/8%disk.BlockBytes] ^= 1 << (bit % 8)
	pages[i] = p
}

// tearInHalf leaves of a failed write the first half of its sectors.
func (s *Sim) tearInHalf(r *record) {
	half := len(r.pages) * 8 / 2
	for i := range r.pages {
		switch have := half - i*8; {
		case have >= 8:
		case have <= 0:
			r.pages[i] = keep
		default:
			old := s.live.get(r.off/disk.BlockBytes + int64(i)).p
			r.pages[i] = torn(old, r.pages[i], uint8(1<<have-1))
		}
	}
}

// discarded says what each block of a discard holds afterwards.
func (s *Sim) discarded(io *disk.IO) []*page {
	pages := make([]*page, io.Len/disk.BlockBytes)
	r := rand.New(rand.NewPCG(s.o.Seed, s.seq))
	for i := range pages {
		switch r.IntN(3) {
		case 0:
			pages[i] = keep
		case 1:
			pages[i] = junk
		}
	}
	return pages
}

// read copies blocks from off on into bufs.
func (t *tree) read(off int64, bufs [][]byte) {
	block := off / disk.BlockBytes
	for _, b := range bufs {
		for ; len(b) > 0; b = b[disk.BlockBytes:] {
			copy(b, t.get(block).p.bytes())
			block++
		}
	}
}

// apply writes what r brought, in r's place in the order of completions.
func (t *tree) apply(r *record) {
	block := r.off / disk.BlockBytes
	for i, p := range r.pages {
		if b := block + int64(i); p != keep && t.get(b).seq < r.seq {
			t.set(b, ref{p, r.seq})
		}
	}
}
