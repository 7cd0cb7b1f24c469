package catalog

import (
	"bytes"
	"cmp"
	"iter"
	"slices"
)

// byID is a persistent map from an ID: put and drop return another map, which
// shares all but one bucket with this one. The zero value is empty. Buckets are
// sorted and go by the first byte of the ID, so a walk is in the order of IDs.
// IDs are random: with n entries, a change copies 256 slice headers and about
// n/256 entries.
type byID[T any] struct {
	buckets *[256][]entry[T]
	n       int
}

type entry[T any] struct {
	id    ID
	value T
}

func (m byID[T]) find(id ID) (int, bool) {
	return slices.BinarySearchFunc(m.buckets[id[0]], id, func(e entry[T], id ID) int { return compareIDs(e.id, id) })
}

func (m byID[T]) get(id ID) (value T, ok bool) {
	if m.buckets == nil {
		return value, false
	}
	i, ok := m.find(id)
	if !ok {
		return value, false
	}
	return m.buckets[id[0]][i].value, true
}

func (m byID[T]) put(id ID, value T) byID[T] {
	next := byID[T]{buckets: &[256][]entry[T]{}, n: m.n}
	if m.buckets != nil {
		*next.buckets = *m.buckets
	}
	bucket := &next.buckets[id[0]]
	i, found := next.find(id)
	if found {
		*bucket = slices.Clone(*bucket)
		(*bucket)[i].value = value
		return next
	}
	next.n++
	*bucket = slices.Insert(slices.Clip(*bucket), i, entry[T]{id, value})
	return next
}

func (m byID[T]) drop(id ID) byID[T] {
	if m.buckets == nil {
		return m
	}
	i, found := m.find(id)
	if !found {
		return m
	}
	next := byID[T]{buckets: &[256][]entry[T]{}, n: m.n - 1}
	*next.buckets = *m.buckets
	next.buckets[id[0]] = slices.Delete(slices.Clone(m.buckets[id[0]]), i, i+1)
	return next
}

// all yields the entries by ascending ID.
func (m byID[T]) all() iter.Seq2[ID, T] {
	return func(yield func(ID, T) bool) {
		if m.buckets == nil {
			return
		}
		for _, bucket := range m.buckets {
			for i := range bucket {
				if !yield(bucket[i].id, bucket[i].value) {
					return
				}
			}
		}
	}
}

// values returns the values by ascending ID.
func (m byID[T]) values() []T {
	out := make([]T, 0, m.n)
	for _, v := range m.all() {
		out = append(out, v)
	}
	return out
}

func compareIDs(a, b ID) int { return bytes.Compare(a[:], b[:]) }

// search finds an entry of a list that is sorted by key.
func search[T any, K cmp.Ordered](list []T, key K, keyOf func(*T) K) (int, bool) {
	return slices.BinarySearchFunc(list, key, func(e T, k K) int { return cmp.Compare(keyOf(&e), k) })
}

// replaced returns a copy of list with e at i.
func replaced[T any](list []T, i int, e T) []T {
	list = slices.Clone(list)
	list[i] = e
	return list
}

// inserted returns a copy of list with e before i.
func inserted[T any](list []T, i int, e T) []T {
	return slices.Insert(slices.Clip(list), i, e)
}

// without returns a copy of list without its element i.
func without[T any](list []T, i int) []T {
	return slices.Delete(slices.Clone(list), i, i+1)
}
