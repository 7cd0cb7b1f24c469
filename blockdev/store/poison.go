package store

import "math/bits"

// Poison: sectors that a host made unreadable (OpPoison). A metadata page has a
// byte of bits per block, one per sector, since volumes of 512-byte blocks poison
// less than the store's blocks. They change as data does, by log records: poison
// sets them; write and remap clear them, but for the sectors at both edges that the
// host did not write; clear and zero clear them. What lies beneath is kept and
// checked as ever: a write of another sector of the block needs it, and a scrub
// does not take a poisoned block for a bad one.

// sectorBytes is the unit of poison.
const (
	sectorBytes     = 512
	sectorsPerBlock = BlockBytes / sectorBytes
)

// featPoison is the incompatible feature that a store has once a block of it was
// poisoned: a program that does not know of it would serve such blocks. The log
// needs no bit, its record type says it.
const featPoison = 1 << 0

// edges are the sectors that are not a part of a range of whole blocks: how many
// at the start of the first block (bits 2:0) and at the end of the last (5:3).
type edges byte

const edgesAll edges = 0x3f

func makeEdges(head, tail int) edges { return edges(head | tail<<3) }

func (e edges) head() edges { return e & 7 }
func (e edges) tail() edges { return e >> 3 & 7 }

// sectors are those of block i of n that belong to the range.
func (e edges) sectors(i, n int) byte {
	mask := byte(0xff)
	if i == 0 {
		mask <<= e.head()
	}
	if i == n-1 {
		mask &= 0xff >> e.tail()
	}
	return mask
}

// edges of the part [i, j) of the op's blocks.
func (op *Op) edges(i, j int) (e edges) {
	if i == 0 {
		e |= makeEdges(op.Head/sectorBytes, 0)
	}
	if j == op.n {
		e |= makeEdges(0, op.Tail/sectorBytes)
	}
	return e
}

// poison marks n blocks of p from b on, but for the edges.
func (s *Store) poison(p *page, b, n int, e edges, ver Version) {
	s.sb.incompat |= featPoison // stands in the superblock of the checkpoint that writes p
	s.mu.logEdges = true
	for i := range n {
		p.img.setPoison(b+i, p.img.poison(b+i)|e.sectors(i, n))
	}
	for r := b / blocksPerChunk; r <= (b+n-1)/blocksPerChunk; r++ {
		p.img.setVersion(r, ver)
	}
}

// heal ends the poison of n blocks of p from b on, but for the edges.
func (s *Store) heal(p *page, b, n int, e edges) {
	if s.sb.incompat&featPoison == 0 {
		return
	}
	for i := range n {
		p.img.setPoison(b+i, p.img.poison(b+i)&^e.sectors(i, n))
	}
}

// poisoned finds the first poisoned byte that a read asks for; negative when
// there is none. It notes the poison of the first block for the caller.
func (op *Op) poisoned() (off int64) {
	p := op.page
	op.Poison = p.img.poison(op.first)
	if op.Raw {
		return -1
	}
	e := op.edges(0, op.n)
	for i := range op.n {
		if m := p.img.poison(op.first + i); m != 0 {
			if m &= e.sectors(i, op.n); m != 0 {
				return op.Off + int64(i)*BlockBytes + int64(bits.TrailingZeros8(m))*sectorBytes
			}
		}
	}
	return -1
}
