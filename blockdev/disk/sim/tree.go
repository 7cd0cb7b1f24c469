package sim

import (
	"sync/atomic"

	"blockd.dev/blockdev/disk"
)

const (
	fanBits = 4
	fan     = 1 << fanBits
)

// page is the content of one 4 KiB block. A page that is in a tree never
// changes again: every write brings new pages.
type page [disk.BlockBytes]byte

// ref is a tree's entry for one block. A nil page reads as zeroes.
type ref struct {
	p *page
	// seq orders writes by completion over the whole life of a disk and of all
	// images cut from it: the block holds what the write of that seq brought.
	seq uint64
}

// tree maps block numbers to refs. Clone is O(1): both trees then share every
// node, and each copies a node on its first change to it. A node may be
// changed in place only by the tree whose owner number it carries.
type tree struct {
	root   *node
	levels int // of inner nodes above the leaves
	owner  uint64
}

// node is an inner node (kids) or a leaf (refs).
type node struct {
	owner uint64
	kids  *[fan]*node
	refs  *[fan]ref
}

var owners atomic.Uint64

func newTree(blocks int64) tree {
	t := tree{owner: owners.Add(1)}
	for reach := int64(fan); reach < blocks; reach *= fan {
		t.levels++
	}
	return t
}

// clone freezes the present nodes and returns a second tree over them.
func (t *tree) clone() tree {
	t.owner = owners.Add(1)
	return tree{root: t.root, levels: t.levels, owner: owners.Add(1)}
}

func (t *tree) get(block int64) ref {
	n := t.root
	for l := t.levels; l > 0 && n != nil; l-- {
		n = n.kids[block>>(l*fanBits)&(fan-1)]
	}
	if n == nil {
		return ref{}
	}
	return n.refs[block&(fan-1)]
}

func (t *tree) set(block int64, r ref) {
	at := &t.root
	for l := t.levels; ; l-- {
		n := t.own(at, l)
		if l == 0 {
			n.refs[block&(fan-1)] = r
			return
		}
		at = &n.kids[block>>(l*fanBits)&(fan-1)]
	}
}

// own makes the node at *at one that t may change.
func (t *tree) own(at **node, level int) *node {
	n := *at
	if n != nil && n.owner == t.owner {
		return n
	}
	m := &node{owner: t.owner}
	if level > 0 {
		m.kids = new([fan]*node)
		if n != nil {
			*m.kids = *n.kids
		}
	} else {
		m.refs = new([fan]ref)
		if n != nil {
			*m.refs = *n.refs
		}
	}
	*at = m
	return m
}

// each calls fn for every block that has a page, in order.
func (t *tree) each(fn func(block int64, p *page)) {
	var walk func(n *node, level int, base int64)
	walk = func(n *node, level int, base int64) {
		if n == nil {
			return
		}
		if level == 0 {
			for i, r := range n.refs {
				if r.p != nil {
					fn(base+int64(i), r.p)
				}
			}
			return
		}
		for i, k := range n.kids {
			walk(k, level-1, base+int64(i)<<(level*fanBits))
		}
	}
	walk(t.root, t.levels, 0)
}
