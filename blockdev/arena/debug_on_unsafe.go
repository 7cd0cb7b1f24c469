//go:build arenadebug || race

package arena

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"unsafe"
)

// Debug tells whether this build poisons released buffers and tracks loans.
const Debug = true

// poisonByte fills released memory; 0xDB is "dead buffer" and a poor pointer,
// length or character.
const poisonByte = 0xDB

var poison = bytes.Repeat([]byte{poisonByte}, pageBytes)

// slabDebug has a record per buffer of the slab as it is cut now.
type slabDebug struct {
	bufs []bufDebug
}

// bufDebug is the history of one buffer. Its lock orders the loan and the
// return with checks from goroutines that should not have the handle.
type bufDebug struct {
	sync.Mutex
	out       bool
	poisoned  int // leading bytes that must still be poison at the next loan
	taken     [12]uintptr
	takenLen  int
	released  [12]uintptr
	releasLen int
}

func (d *slabDebug) cut(c *class) {
	if len(d.bufs) == int(c.perSlab) {
		return // same cut: the history and the poison still hold
	}
	d.bufs = make([]bufDebug, c.perSlab)
}

func (b *Buf) debug() *bufDebug { return &b.slab.debug.bufs[b.order] }

func (b *Buf) whole() []byte { return unsafe.Slice((*byte)(b.mem), b.slab.class.sizeBytes) }

// check panics when the handle was released.
func (b *Buf) check(what string) {
	d := b.debug()
	d.Lock()
	defer d.Unlock()
	if !d.out {
		panic(fmt.Sprintf("arena: %s of a buffer after its Release by:\n%s", what, stackText(d.released[:d.releasLen])))
	}
}

// lent checks the poison and records the borrower.
func (b *Buf) lent() {
	d := b.debug()
	d.Lock()
	defer d.Unlock()
	mem := b.whole()
	for off := 0; off < d.poisoned; off += pageBytes {
		end := min(off+pageBytes, d.poisoned)
		if bytes.Equal(mem[off:end], poison[:end-off]) {
			continue
		}
		at := off
		for mem[at] == poisonByte {
			at++
		}
		panic(fmt.Sprintf("arena: byte %d of a free buffer of %d bytes was written after its Release by:\n%s",
			at, len(mem), stackText(d.released[:d.releasLen])))
	}
	d.out = true
	d.takenLen = runtime.Callers(3, d.taken[:])
}

// returning poisons what the borrower could see.
func (b *Buf) returning() {
	d := b.debug()
	d.Lock()
	defer d.Unlock()
	if !d.out {
		panic("arena: second Release of a buffer; the first was by:\n" + stackText(d.released[:d.releasLen]))
	}
	d.out = false
	d.releasLen = runtime.Callers(3, d.released[:])
	mem := b.whole()
	d.poisoned = int(b.n)
	for off := 0; off < d.poisoned; off += pageBytes {
		copy(mem[off:d.poisoned], poison)
	}
}

// badRelease is not reached in debug builds unless two goroutines release at
// the same instant.
func (b *Buf) badRelease() {
	panic("arena: second Release of a buffer")
}

// pushLocked puts b last in line, so that a stale handle stays stale long
// enough to be noticed.
func (sl *slab) pushLocked(b *Buf) {
	if sl.free == nil {
		sl.free = b
	} else {
		sl.tail.next = b
	}
	sl.tail = b
}

// Leaked lists the buffers that are out; nil unless Debug.
func (a *Arena) Leaked() []Leak {
	for i := range a.classes {
		for j := range a.classes[i].shards {
			s := &a.classes[i].shards[j]
			s.Lock()
			defer s.Unlock()
		}
	}
	return a.leakedLocked()
}

func (a *Arena) leakedLocked() []Leak {
	var leaks []Leak
	for i := range a.slabs {
		for j := range a.slabs[i].debug.bufs {
			d := &a.slabs[i].debug.bufs[j]
			d.Lock()
			if d.out {
				leaks = append(leaks, Leak{SizeBytes: a.slabs[i].class.sizeBytes, Stack: stackText(d.taken[:d.takenLen])})
			}
			d.Unlock()
		}
	}
	return leaks
}

// leakTextLocked is the borrowers of at most three buffers.
func (a *Arena) leakTextLocked() string {
	var sb strings.Builder
	for i, l := range a.leakedLocked() {
		if i == 3 {
			break
		}
		fmt.Fprintf(&sb, "\n%d bytes taken by:\n%s", l.SizeBytes, l.Stack)
	}
	return sb.String()
}

func stackText(pcs []uintptr) string {
	var sb strings.Builder
	frames := runtime.CallersFrames(pcs)
	for {
		f, more := frames.Next()
		if f.Function != "" {
			fmt.Fprintf(&sb, "\t%s %s:%d\n", f.Function, f.File, f.Line)
		}
		if !more {
			return sb.String()
		}
	}
}
