package wire

// table finds values by message ID. It is a hash table with linear probing;
// IDs are consecutive, so their low bits are the hash. It allocates only to
// grow, and never shrinks.
type table[T any] struct {
	keys  []uint64 // 0: free
	vals  []*T
	count int
}

func (t *table[T]) get(key uint64) *T {
	if t.count == 0 {
		return nil
	}
	mask := uint64(len(t.keys) - 1)
	for i := key & mask; t.keys[i] != 0; i = (i + 1) & mask {
		if t.keys[i] == key {
			return t.vals[i]
		}
	}
	return nil
}

// put adds key, which is not zero and not there yet.
func (t *table[T]) put(key uint64, v *T) {
	if 2*(t.count+1) > len(t.keys) {
		t.grow()
	}
	mask := uint64(len(t.keys) - 1)
	i := key & mask
	for t.keys[i] != 0 {
		i = (i + 1) & mask
	}
	t.keys[i], t.vals[i] = key, v
	t.count++
}

func (t *table[T]) grow() {
	old := *t
	n := max(64, 2*len(old.keys))
	t.keys, t.vals, t.count = make([]uint64, n), make([]*T, n), 0
	for i, k := range old.keys {
		if k != 0 {
			t.put(k, old.vals[i])
		}
	}
}

// remove takes key out, if it is there, and moves those up that were pushed
// behind it.
func (t *table[T]) remove(key uint64) {
	if t.count == 0 {
		return
	}
	mask := uint64(len(t.keys) - 1)
	hole := key & mask
	for t.keys[hole] != key {
		if t.keys[hole] == 0 {
			return
		}
		hole = (hole + 1) & mask
	}
	for i := (hole + 1) & mask; t.keys[i] != 0; i = (i + 1) & mask {
		// The value at i may move to the hole unless its home is behind the hole.
		if home := t.keys[i] & mask; (i-home)&mask >= (i-hole)&mask {
			t.keys[hole], t.vals[hole] = t.keys[i], t.vals[i]
			hole = i
		}
	}
	t.keys[hole], t.vals[hole] = 0, nil
	t.count--
}

// each visits all values, in no order that means anything. visit must not
// change the table.
func (t *table[T]) each(visit func(*T)) {
	for i, k := range t.keys {
		if k != 0 {
			visit(t.vals[i])
		}
	}
}
