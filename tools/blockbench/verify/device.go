package verify

import (
	"errors"
	"sync"
	"sync/atomic"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/rangelock"
)

// ErrViolation is what a read fails with that brought what it must not; the
// *Violation is in its chain.
var ErrViolation = errors.New("the target does not hold what it must")

// Checker writes and checks one volume for any number of Devices.
type Checker struct {
	// Journal is what is known of the volume. Required.
	Journal *Journal
	// Report is called for each violation, from any goroutine; it must not
	// block. nil drops them; the read fails anyway.
	Report func(*Violation)
	// Uncertain says of a write's error that its outcome can be looked up by a
	// read, as when the connection was lost and is there again. Then the write
	// succeeds, whether it had been done or not. nil means never: the write
	// fails, and the blocks may hold either version from then on.
	Uncertain func(error) bool

	locks    rangelock.Table
	checked  atomic.Int64
	resolved atomic.Int64
	settled  atomic.Int64
}

// Settled is how many blocks could hold one of several versions until a read
// has told which.
func (c *Checker) Settled() int64 { return c.settled.Load() }

// Checked is how many blocks were read and compared.
func (c *Checker) Checked() int64 { return c.checked.Load() }

// Resolved is how many writes of uncertain outcome were looked up.
func (c *Checker) Resolved() int64 { return c.resolved.Load() }

// Device wraps below, which is the volume of the journal, by any path.
func (c *Checker) Device(below blockdev.Device) *Device {
	return &Device{checker: c, below: below}
}

// Device is a blockdev.Device that checks another one. Writes ignore the
// caller's data, and change it: the buffers hold the pattern afterwards. The
// comparison of a compare-and-write is with what the blocks must hold; where
// that is not certain it becomes a write. Requests outside of the journal's
// range are refused.
type Device struct {
	checker *Checker
	below   blockdev.Device
	ops     sync.Pool // of *op
}

// Geometry is that of the device below.
func (d *Device) Geometry() blockdev.Geometry { return d.below.Geometry() }

// Watch reports the changes of the device below.
func (d *Device) Watch(fn func(blockdev.Change)) (stop func()) { return d.below.Watch(fn) }

// op is a request on its way.
type op struct {
	dev     *Device
	caller  *blockdev.Request
	sub     blockdev.Request
	batch   [1]*blockdev.Request
	lock    rangelock.Lock
	v       version
	mark    uint64 // of a flush
	writes  bool
	looking bool   // the outcome of a write is being looked up
	missed  error  // the miscompare that is being looked into
	look    []byte // the buffer for that
	block   []byte // scratch
}

func (d *Device) newOp(r *blockdev.Request) *op {
	o, _ := d.ops.Get().(*op)
	if o == nil {
		o = &op{dev: d, block: make([]byte, d.checker.Journal.Oracle.unit)}
		o.sub.Done = func(*blockdev.Request) { o.done() }
		o.lock.Granted = func(*rangelock.Lock) {
			o.batch[0] = &o.sub
			if o.prepare() {
				d.below.Submit(o.batch[:])
			}
		}
	}
	o.caller = r
	o.v, o.looking, o.missed = 0, false, nil
	o.writes = r.Op != blockdev.OpRead && r.Op != blockdev.OpFlush
	return o
}

// Submit passes the requests on, each as soon as no other one writes to its
// blocks.
func (d *Device) Submit(batch []*blockdev.Request) {
	pass := make([]*blockdev.Request, 0, len(batch))
	var ready []*op
	for _, r := range batch {
		err := blockdev.Validate(d.Geometry(), r)
		if err == nil && r.Op != blockdev.OpFlush && !d.checker.Journal.Oracle.covers(r.Offset, r.Length) {
			err = blockdev.NewError(blockdev.ErrInvalid, r, -1, errors.New("outside of the journal's range"))
		}
		if err != nil || (r.Length == 0 && r.Op != blockdev.OpFlush) {
			blockdev.Complete(r, err)
			continue
		}
		o := d.newOp(r)
		if r.Op == blockdev.OpFlush {
			ready = append(ready, o)
			continue
		}
		o.lock.Off, o.lock.Len, o.lock.Mode = r.Offset, r.Length, rangelock.Shared
		if o.writes {
			o.lock.Mode = rangelock.Exclusive
		}
		if d.checker.locks.Acquire(&o.lock) {
			ready = append(ready, o)
		}
	}
	for _, o := range ready {
		o.record()
	}
	// One write to the journal for all of them.
	err := d.checker.Journal.flush()
	for _, o := range ready {
		if err != nil {
			o.finish(blockdev.NewError(blockdev.ErrIO, o.caller, -1, err))
			continue
		}
		pass = append(pass, &o.sub)
	}
	if len(pass) > 0 {
		d.below.Submit(pass)
	}
}

// prepare records the request and brings the journal to its file. It reports
// whether the request can be sent.
func (o *op) prepare() bool {
	o.record()
	if err := o.dev.checker.Journal.flush(); err != nil {
		o.finish(blockdev.NewError(blockdev.ErrIO, o.caller, -1, err))
		return false
	}
	return true
}

// record makes the request to send, with its data, and enters it into the
// journal. The range is locked.
func (o *op) record() {
	r, j := o.caller, o.dev.checker.Journal
	done, internal := o.sub.Done, o.sub.Internal
	o.sub = blockdev.Request{Op: r.Op, FUA: r.FUA, NoUnmap: r.NoUnmap, Offset: r.Offset, Length: r.Length,
		Data: r.Data, Done: done, Internal: internal}
	switch r.Op {
	case blockdev.OpFlush:
		o.mark = j.Oracle.flushMark()
	case blockdev.OpUnmap, blockdev.OpWriteZeroes:
		o.v, _ = j.submit(r.Offset, r.Length, true)
	case blockdev.OpCompareAndWrite:
		certain := o.expect()
		var run uint32
		o.v, run = j.submit(r.Offset, r.Length, false)
		o.stamp(run, r.Length)
		if !certain {
			o.sub.Op, o.sub.Data = blockdev.OpWrite, cut(r.Data, r.Length)
		}
	case blockdev.OpWrite:
		var run uint32
		o.v, run = j.submit(r.Offset, r.Length, false)
		o.stamp(run, 0)
	}
}

// expect puts what the blocks must hold into the first half of a
// compare-and-write's data. It reports false when that is not known.
func (o *op) expect() bool {
	or := o.dev.checker.Journal.Oracle
	for at := int64(0); at < o.caller.Length; at += or.unit {
		if !or.certain(o.block, o.caller.Offset+at) {
			return false
		}
		scatter(o.caller.Data, at, o.block)
	}
	return true
}

// stamp fills the request's data from byte at on with the pattern.
func (o *op) stamp(run uint32, at int64) {
	or, r := o.dev.checker.Journal.Oracle, o.caller
	for n := int64(0); n < r.Length; n += or.unit {
		b := view(r.Data, at+n, or.unit)
		if b != nil {
			or.content(b, r.Offset+n, o.v, run)
			continue
		}
		or.content(o.block, r.Offset+n, o.v, run)
		scatter(r.Data, at+n, o.block)
	}
}

// done takes the answer of the device below.
func (o *op) done() {
	c := o.dev.checker
	r, err := o.caller, o.sub.Err
	switch {
	case o.looking:
		if err != nil && c.Uncertain != nil && c.Uncertain(err) {
			o.lookUp()
			return
		}
		if err == nil {
			c.resolved.Add(1)
			if err = o.check([][]byte{o.look}); err == nil {
				err = o.missed
			}
		}
	case errors.Is(err, blockdev.ErrMiscompare):
		o.missed = err // no read has found it yet, so what is there is wrong
		o.lookUp()
		return
	case err != nil:
		if c.Uncertain != nil && c.Uncertain(err) && o.writes {
			o.lookUp()
			return
		}
	case o.writes:
		c.Journal.ack(r.Offset, r.Length, o.v, r.FUA)
	case r.Op == blockdev.OpFlush:
		c.Journal.flushed(o.mark)
	default:
		err = o.check(r.Data)
	}
	o.finish(err)
}

// lookUp reads what a write of unknown outcome left.
func (o *op) lookUp() {
	o.looking = true
	if int64(len(o.look)) != o.caller.Length {
		o.look = make([]byte, o.caller.Length)
	}
	done, internal := o.sub.Done, o.sub.Internal
	o.sub = blockdev.Request{Op: blockdev.OpRead, Offset: o.caller.Offset, Length: o.caller.Length,
		Data: [][]byte{o.look}, Done: done, Internal: internal}
	o.batch[0] = &o.sub
	o.dev.below.Submit(o.batch[:])
}

// check compares what was read with what may be there.
func (o *op) check(data [][]byte) error {
	c := o.dev.checker
	or := c.Journal.Oracle
	var first *Violation
	for n := int64(0); n < o.caller.Length; n += or.unit {
		b := view(data, n, or.unit)
		if b == nil {
			gather(o.block, data, n)
			b = o.block
		}
		c.checked.Add(1)
		bad, settled := c.Journal.observe(b, o.caller.Offset+n)
		if settled {
			c.settled.Add(1)
		}
		if bad != nil {
			if c.Report != nil {
				c.Report(bad)
			}
			if first == nil {
				first = bad
			}
		}
	}
	if first == nil {
		return nil
	}
	return blockdev.NewError(blockdev.ErrMedium, o.caller, first.Offset, errors.Join(ErrViolation, first))
}

// finish ends the caller's request.
func (o *op) finish(err error) {
	r, d := o.caller, o.dev
	locked := r.Op != blockdev.OpFlush
	if locked {
		d.checker.locks.Release(&o.lock)
	}
	o.caller, o.sub.Data, o.batch[0] = nil, nil, nil
	d.ops.Put(o)
	blockdev.Complete(r, err)
}

// view is n bytes at offset at of the segments, where they lie in one piece,
// else nil.
func view(data [][]byte, at, n int64) []byte {
	for _, s := range data {
		if at < int64(len(s)) {
			if at+n <= int64(len(s)) {
				return s[at : at+n]
			}
			return nil
		}
		at -= int64(len(s))
	}
	return nil
}

// cut is the segments from offset at on.
func cut(data [][]byte, at int64) [][]byte {
	var out [][]byte
	for _, s := range data {
		if at >= int64(len(s)) {
			at -= int64(len(s))
			continue
		}
		out = append(out, s[at:])
		at = 0
	}
	return out
}

// scatter copies b to offset at of the segments.
func scatter(data [][]byte, at int64, b []byte) {
	for _, s := range cut(data, at) {
		b = b[copy(s, b):]
	}
}

// gather fills b from offset at of the segments.
func gather(b []byte, data [][]byte, at int64) {
	for _, s := range cut(data, at) {
		b = b[copy(b, s):]
	}
}
