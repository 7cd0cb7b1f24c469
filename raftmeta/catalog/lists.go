package catalog

import (
	"bytes"
	"cmp"
	"slices"
)

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
