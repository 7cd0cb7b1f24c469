// Package idmap is an immutable map by random 16-byte identifiers: a change
// gives a new map that shares nearly all with the old one. Iteration is in
// the order of identifiers, so equal maps are written as equal bytes.
//
// The first byte of an identifier picks one of 256 sorted buckets. Identifiers
// of volumes are random, so 10,000 of them make buckets of about 40, and a
// change copies one bucket and 256 pointers. Identifiers that all begin with
// the same byte are slower and just as right.
package idmap

import (
	"bytes"
	"iter"
	"slices"
)

// ID is what entries are found by.
type ID = [16]byte

// Map is an immutable map. The zero Map is empty. It may be copied and read by
// anyone at any time.
type Map[V any] struct {
	root *[256][]entry[V]
	n    int
}

type entry[V any] struct {
	id ID
	v  V
}

func find[V any](bucket []entry[V], id ID) (int, bool) {
	return slices.BinarySearchFunc(bucket, id, func(e entry[V], id ID) int { return bytes.Compare(e.id[:], id[:]) })
}

// Len returns the number of entries.
func (m Map[V]) Len() int { return m.n }

// Get returns the value of id, and whether there is one.
func (m Map[V]) Get(id ID) (v V, ok bool) {
	if m.root == nil {
		return v, false
	}
	bucket := m.root[id[0]]
	i, ok := find(bucket, id)
	if !ok {
		return v, false
	}
	return bucket[i].v, true
}

// With returns a map in which id has the value v.
func (m Map[V]) With(id ID, v V) Map[V] {
	root := &[256][]entry[V]{}
	if m.root != nil {
		*root = *m.root
	}
	bucket := root[id[0]]
	i, found := find(bucket, id)
	if found {
		bucket = slices.Clone(bucket)
		bucket[i].v = v
	} else {
		grown := make([]entry[V], 0, len(bucket)+1)
		grown = append(grown, bucket[:i]...)
		grown = append(grown, entry[V]{id, v})
		bucket = append(grown, bucket[i:]...)
		m.n++
	}
	root[id[0]] = bucket
	return Map[V]{root, m.n}
}

// Without returns a map that has no value for id.
func (m Map[V]) Without(id ID) Map[V] {
	if m.root == nil {
		return m
	}
	i, found := find(m.root[id[0]], id)
	if !found {
		return m
	}
	root := *m.root
	root[id[0]] = slices.Delete(slices.Clone(root[id[0]]), i, i+1)
	return Map[V]{&root, m.n - 1}
}

// All yields the entries in the order of their identifiers.
func (m Map[V]) All() iter.Seq2[ID, V] {
	return func(yield func(ID, V) bool) {
		if m.root == nil {
			return
		}
		for i := range m.root {
			for _, e := range m.root[i] {
				if !yield(e.id, e.v) {
					return
				}
			}
		}
	}
}
