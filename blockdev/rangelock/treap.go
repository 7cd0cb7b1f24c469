package rangelock

// conflict reports whether a and b can't be held together.
func conflict(a, b *Lock) bool {
	return (a.Mode == Exclusive || b.Mode == Exclusive) && a.Off < b.end() && b.Off < a.end() &&
		a.Len > 0 && b.Len > 0
}

// before is the order of the treap. seq makes it total.
func before(a, b *Lock) bool {
	return a.Off < b.Off || a.Off == b.Off && a.seq < b.seq
}

// update sets maxEnd from the children.
func (l *Lock) update() {
	l.maxEnd = l.end()
	if l.left != nil {
		l.maxEnd = max(l.maxEnd, l.left.maxEnd)
	}
	if l.right != nil {
		l.maxEnd = max(l.maxEnd, l.right.maxEnd)
	}
}

// countConflicts is how many locks in the subtree conflict with l.
func countConflicts(n, l *Lock) int {
	if n == nil || n.maxEnd <= l.Off {
		return 0
	}
	count := countConflicts(n.left, l)
	if n.Off >= l.end() {
		return count
	}
	if conflict(n, l) {
		count++
	}
	return count + countConflicts(n.right, l)
}

// insert puts l into the subtree and returns its new root.
func insert(n, l *Lock, prio uint32) *Lock {
	if n == nil || prio > n.prio {
		l.prio = prio
		l.left, l.right = split(n, l)
		l.update()
		return l
	}
	if before(l, n) {
		n.left = insert(n.left, l, prio)
	} else {
		n.right = insert(n.right, l, prio)
	}
	n.update()
	return n
}

// split parts the subtree into what is before l and what is after.
func split(n, l *Lock) (lower, upper *Lock) {
	if n == nil {
		return nil, nil
	}
	if before(n, l) {
		n.right, upper = split(n.right, l)
		n.update()
		return n, upper
	}
	lower, n.left = split(n.left, l)
	n.update()
	return lower, n
}

// remove takes l, which must be in it, out of the subtree and returns its new
// root.
func remove(n, l *Lock) *Lock {
	if n == l {
		n = merge(l.left, l.right)
		l.left, l.right = nil, nil
		return n
	}
	if before(l, n) {
		n.left = remove(n.left, l)
	} else {
		n.right = remove(n.right, l)
	}
	n.update()
	return n
}

// merge joins two subtrees of which all of a is before all of b.
func merge(a, b *Lock) *Lock {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.prio > b.prio:
		a.right = merge(a.right, b)
		a.update()
		return a
	}
	b.left = merge(a, b.left)
	b.update()
	return b
}
