// Package rangelock locks byte ranges, shared or exclusive, without blocking:
// who can't have a range now is called back when it can. A read-modify-write
// of half a physical block holds its block while the read is under way, and a
// compare-and-write its range.
//
// Locks are granted in the order of arrival as far as they conflict: a lock
// waits for every earlier one, held or waiting, that overlaps it where one of
// the two is exclusive. So nobody starves, and locks that don't conflict
// never wait for one another.
//
// The caller owns the Lock struct and embeds it in its own request, so nothing
// is allocated. The package starts no goroutine: callbacks run in the
// goroutine whose Release made them possible, after the table is unlocked.
//
// Inside, all locks of a table stand in one interval tree (a treap ordered by
// offset, each node knowing the greatest end below it), under one mutex.
// A lock counts the earlier ones it waits for. Release walks the overlapping
// locks, lowers the count of the later conflicting ones, and grants those that
// reach zero. Acquire and Release take O(log n + overlaps).
package rangelock

import (
	"fmt"
	"sync"
)

// Mode says with whom a lock can share its range.
type Mode uint8

// The modes. Two shared locks don't conflict; all other pairs do.
const (
	Shared Mode = iota
	Exclusive
)

// Lock is one locked range, or the wish for one. The fields are set before
// Acquire and not changed until it is released; then the struct may be used
// again.
type Lock struct {
	Off, Len int64 // bytes; at least 0, and the sum fits an int64
	Mode     Mode
	// Granted is called when a lock that had to wait is held. It may call any
	// method of the table, but must not block.
	Granted func(*Lock)
	// Owner is the caller's own.
	Owner any

	state       lockState
	blockers    int    // earlier conflicting locks in the table
	seq         uint64 // order of arrival
	prio        uint32 // of the treap: highest on top
	left, right *Lock
	maxEnd      int64 // greatest end in this subtree
	nextGranted *Lock // list built by one Release
}

type lockState uint8

const (
	idle lockState = iota
	waiting
	held
)

func (l *Lock) end() int64 { return l.Off + l.Len }

// Table is a set of locks over one address space. The zero value is empty.
// All methods may be called from any goroutine.
type Table struct {
	mu      sync.Mutex
	root    *Lock
	seq     uint64
	rng     uint32
	held    int
	waiting int
}

// Acquire asks for l. When it returns true, l is held, and Granted is not
// called. Else Granted will be called, once, from a goroutine that releases a
// lock; that may be before Acquire returns. A lock of no bytes conflicts with
// nothing. Acquire panics when l is in use or its range is not valid.
func (t *Table) Acquire(l *Lock) bool {
	if l.Off < 0 || l.Len < 0 || l.Off+l.Len < 0 {
		panic(fmt.Sprintf("rangelock: Acquire of %d bytes at %d", l.Len, l.Off))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.state != idle {
		panic(fmt.Sprintf("rangelock: Acquire of a lock in use, %d bytes at %d", l.Len, l.Off))
	}
	t.seq++
	l.seq = t.seq
	l.blockers = countConflicts(t.root, l)
	t.root = insert(t.root, l, t.nextPrio())
	if l.blockers == 0 {
		l.state = held
		t.held++
		return true
	}
	if l.Granted == nil {
		panic("rangelock: Acquire must wait, and Granted is nil")
	}
	l.state = waiting
	t.waiting++
	return false
}

// Release ends a held lock and calls Granted of every lock that waited for it
// alone. It panics when l is not held.
func (t *Table) Release(l *Lock) {
	t.mu.Lock()
	if l.state != held {
		t.mu.Unlock()
		panic(fmt.Sprintf("rangelock: Release of a lock that is not held, %d bytes at %d", l.Len, l.Off))
	}
	t.held--
	granted := t.removeLocked(l)
	t.mu.Unlock()
	call(granted)
}

// Cancel withdraws l while it waits; Granted will not be called then. It
// returns false, and does nothing, when l is held (Granted was called or is
// being called) or not in use.
func (t *Table) Cancel(l *Lock) bool {
	t.mu.Lock()
	if l.state != waiting {
		t.mu.Unlock()
		return false
	}
	t.waiting--
	granted := t.removeLocked(l)
	t.mu.Unlock()
	call(granted)
	return true
}

// Count tells how many locks are held and how many wait.
func (t *Table) Count() (heldLocks, waitingLocks int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held, t.waiting
}

// removeLocked takes l out and returns the list of those that hold now.
func (t *Table) removeLocked(l *Lock) (granted *Lock) {
	t.root = remove(t.root, l)
	l.state = idle
	var tail *Lock
	t.unblock(t.root, l, &granted, &tail)
	return granted
}

// unblock lowers the count of the locks in the subtree that wait for l, and
// appends those that wait no more to the list.
func (t *Table) unblock(n, l *Lock, head, tail **Lock) {
	if n == nil || n.maxEnd <= l.Off {
		return
	}
	t.unblock(n.left, l, head, tail)
	if n.Off >= l.end() {
		return
	}
	if n.seq > l.seq && conflict(n, l) {
		n.blockers--
		if n.blockers == 0 {
			n.state = held
			t.held++
			t.waiting--
			if *tail == nil {
				*head = n
			} else {
				(*tail).nextGranted = n
			}
			*tail = n
		}
	}
	t.unblock(n.right, l, head, tail)
}

// call runs the callbacks of a list. A callback may release and reuse its
// lock, so the link is read first.
func call(l *Lock) {
	for l != nil {
		next := l.nextGranted
		l.nextGranted = nil
		l.Granted(l)
		l = next
	}
}

// nextPrio is a pseudo-random number (xorshift32).
func (t *Table) nextPrio() uint32 {
	x := t.rng
	if x == 0 {
		x = 0x9E3779B9
	}
	x ^= x << 13
	x ^= x >> 17
	x ^= x << 5
	t.rng = x
	return x
}
