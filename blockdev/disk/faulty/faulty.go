package faulty

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"blockd.dev/blockdev/disk"
)

// Disk is a disk.Disk with rules in front of it. I/O that no rule strikes goes
// straight through.
type Disk struct {
	under    disk.Disk
	rules    *Rules
	struck   sync.WaitGroup // I/Os that this wrapper will complete or forward
	closing  sync.RWMutex   // read-held by Submit: Close waits for it
	closed   bool
	syncLost atomic.Bool
}

var _ disk.Disk = (*Disk)(nil)

// New puts rules in front of d. Close closes d.
func New(d disk.Disk, rules *Rules) *Disk { return &Disk{under: d, rules: rules} }

// SizeBytes implements disk.Disk.
func (d *Disk) SizeBytes() int64 { return d.under.SizeBytes() }

// Unwrap returns the disk behind the rules.
func (d *Disk) Unwrap() disk.Disk { return d.under }

// Info implements disk.Disk.
func (d *Disk) Info() disk.Info { return d.under.Info() }

// Submit implements disk.Disk.
func (d *Disk) Submit(batch []*disk.IO) {
	d.closing.RLock()
	if d.closed {
		d.closing.RUnlock()
		d.under.Submit(batch)
		return
	}
	var rest []*disk.IO
	hit := false
	for i, io := range batch {
		strike := d.decide(io)
		switch {
		case strike != nil && !hit:
			hit, rest = true, slices.Clone(batch[:i])
		case strike == nil && hit:
			rest = append(rest, io)
		}
		if strike != nil {
			d.struck.Add(1)
			go strike()
		}
	}
	d.closing.RUnlock()
	if hit {
		batch = rest
	}
	if len(batch) > 0 {
		d.under.Submit(batch)
	}
}

// decide returns what to do with io instead of passing it on, or nil.
func (d *Disk) decide(io *disk.IO) func() {
	if disk.Check(d.SizeBytes(), io) != nil {
		return nil // for the disk to refuse
	}
	durable := io.Op == disk.Sync || io.Op == disk.Write && io.Dsync
	rule, chance, struck := d.rules.Decide(io)
	switch {
	case struck:
		return func() {
			defer d.struck.Done()
			d.strike(io, rule, chance, durable)
		}
	case durable && d.syncLost.Load():
		return func() {
			defer d.struck.Done()
			d.end(io, disk.ErrSyncLost)
		}
	}
	return nil
}

// strike does to io what the rule says, on a goroutine of its own.
func (d *Disk) strike(io *disk.IO, r Rule, chance uint64, durable bool) {
	if r.Delay > 0 {
		t := time.NewTimer(r.Delay)
		<-t.C
	}
	copied := *io
	switch {
	case r.Err != 0:
		if r.Torn && io.Op == disk.Write {
			d.tear(copied)
		}
		if durable {
			d.syncLost.Store(true)
		}
		d.end(io, r.Err)
	case r.Lose && io.Op == disk.Write:
		d.end(io, nil)
	case r.MisplaceBy != 0 && io.Op == disk.Write:
		copied.Off += r.MisplaceBy
		if disk.Check(d.SizeBytes(), &copied) != nil {
			copied.Off = io.Off
		}
		d.wait(&copied)
		d.pass(io, copied.Err)
	case r.FlipBit && io.Op == disk.Write:
		copied.Bufs = [][]byte{flat(io)}
		FlipBit(copied.Bufs, chance)
		d.wait(&copied)
		d.pass(io, copied.Err)
	case r.FlipBit && io.Op == disk.Read:
		d.wait(&copied)
		if copied.Err == nil {
			FlipBit(io.Bufs, chance)
		}
		d.pass(io, copied.Err)
	default:
		d.wait(&copied)
		d.pass(io, copied.Err)
	}
}

// tear writes the first half of the sectors of a write: whole blocks by a
// shorter write, half a block over what was there.
func (d *Disk) tear(io disk.IO) {
	b := flat(&io)
	half := len(b) / 2
	old := disk.NewAligned(len(b))
	read := disk.IO{Op: disk.Read, Off: io.Off, Bufs: [][]byte{old}}
	if d.wait(&read); read.Err != nil {
		return
	}
	copy(old[:half], b)
	io.Bufs = [][]byte{old}
	d.wait(&io)
}

// flat copies the data of io into one aligned buffer.
func flat(io *disk.IO) []byte {
	b := disk.NewAligned(int(io.Bytes()))
	n := 0
	for _, s := range io.Bufs {
		n += copy(b[n:], s)
	}
	return b
}

// wait runs io on the disk beneath, with a Done of its own.
func (d *Disk) wait(io *disk.IO) {
	done := make(chan struct{})
	io.Done = func(*disk.IO) { close(done) }
	d.under.Submit([]*disk.IO{io})
	<-done
}

// end completes io with cause, pass with an error of the disk beneath.
func (d *Disk) end(io *disk.IO, cause error) {
	if cause != nil {
		cause = disk.NewError(d.Info().Path, io, cause)
	}
	d.pass(io, cause)
}

func (d *Disk) pass(io *disk.IO, err error) {
	io.Err = err
	io.Done(io)
}

// Close implements disk.Disk.
func (d *Disk) Close() error {
	d.closing.Lock()
	d.closed = true
	d.closing.Unlock()
	d.struck.Wait()
	return d.under.Close()
}
