package volatile

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"blockd.dev/blockdev/disk"
)

const (
	// leakShare is the share of cached writes of which some sectors reach the disk early.
	leakShare = 0.25
	// cachedMax is how many blocks the cache holds; above it writes wait for the disk.
	cachedMax = (64 << 20) / disk.BlockBytes
)

// Disk is a disk.Disk with the cache in front of it.
type Disk struct {
	under disk.Disk
	ended sync.WaitGroup

	mu     sync.Mutex
	more   sync.Cond        // work or closed has changed
	work   []func()         // what reaches the disk, in the order of Submit, one after the other
	blocks map[int64]*block // by number: what the disk does not have yet
	backed []bool           // by number: the disk has room for it, since it was written before
	closed bool
}

// block is a version of a block. It does not change.
type block struct{ data []byte }

var _ disk.Disk = (*Disk)(nil)

// New puts a cache in front of d. Close closes d, and loses nothing.
func New(d disk.Disk) *Disk {
	v := &Disk{under: d, blocks: map[int64]*block{}, backed: make([]bool, d.SizeBytes()/disk.BlockBytes)}
	v.more.L = &v.mu
	v.ended.Go(v.run)
	return v
}

// run does what there is to do, until Close.
func (d *Disk) run() {
	for {
		d.mu.Lock()
		for len(d.work) == 0 && !d.closed {
			d.more.Wait()
		}
		work := d.work
		d.work = nil
		d.mu.Unlock()
		if len(work) == 0 {
			return
		}
		for _, do := range work {
			do()
		}
	}
}

// laterLocked has do done after all that was submitted before.
func (d *Disk) laterLocked(do func()) {
	d.work = append(d.work, do)
	d.more.Signal()
}

// SizeBytes implements disk.Disk.
func (d *Disk) SizeBytes() int64 { return d.under.SizeBytes() }

// Info implements disk.Disk.
func (d *Disk) Info() disk.Info { return d.under.Info() }

// Submit implements disk.Disk.
func (d *Disk) Submit(batch []*disk.IO) {
	for _, io := range batch {
		if !d.submit(io) {
			d.under.Submit([]*disk.IO{io})
		}
	}
}

// submit reports whether it has taken io, which is else for the disk to do or to refuse.
func (d *Disk) submit(io *disk.IO) bool {
	if disk.Check(d.SizeBytes(), io) != nil {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return false
	case io.Op == disk.Read:
		return d.readLocked(io)
	case io.Op == disk.Write:
		d.writeLocked(io)
	case io.Op == disk.Sync:
		d.syncLocked(io)
	default:
		d.discardLocked(io)
	}
	return true
}

// discardLocked gives up room.
func (d *Disk) discardLocked(io *disk.IO) {
	clear(d.backed[io.Off/disk.BlockBytes : (io.Off+io.Len)/disk.BlockBytes])
	d.laterLocked(func() { d.pass(io) })
}

// pass has the disk do io, and waits.
func (d *Disk) pass(io *disk.IO) {
	copied := *io
	d.do(&copied)
	io.Err = copied.Err
	io.Done(io)
}

// do runs an operation of this package's own on the disk.
func (d *Disk) do(io *disk.IO) {
	done := make(chan struct{})
	io.Done = func(*disk.IO) { close(done) }
	d.under.Submit([]*disk.IO{io})
	<-done
}

// readLocked reads from the disk, and puts on top what the cache has now. A block leaves the cache
// only when the disk has it.
func (d *Disk) readLocked(io *disk.IO) bool {
	first, count := io.Off/disk.BlockBytes, io.Bytes()/disk.BlockBytes
	var over []*block // nil where the disk is right
	for i := range count {
		if b := d.blocks[first+i]; b != nil {
			if over == nil {
				over = make([]*block, count)
			}
			over[i] = b
		}
	}
	if over == nil {
		return false
	}
	d.ended.Go(func() {
		copied := *io
		d.do(&copied)
		if copied.Err == nil {
			each(io.Bufs, func(i int, part []byte, at int) {
				if b := over[i]; b != nil {
					copy(part, b.data[at:])
				}
			})
		}
		io.Err = copied.Err
		io.Done(io)
	})
	return true
}

// each calls f for the parts of bufs that are of one block: its number among them,
// and where in it the part is.
func each(bufs [][]byte, f func(i int, part []byte, at int)) {
	at := 0
	for _, b := range bufs {
		for len(b) > 0 {
			n := min(disk.BlockBytes-at%disk.BlockBytes, len(b))
			f(at/disk.BlockBytes, b[:n], at%disk.BlockBytes)
			b, at = b[n:], at+n
		}
	}
}

// writeLocked puts the data into the cache. A write with Dsync goes on to the disk, as all do
// while the cache is full.
func (d *Disk) writeLocked(io *disk.IO) {
	fresh := make([]*block, io.Bytes()/disk.BlockBytes)
	for i := range fresh {
		fresh[i] = &block{disk.NewAligned(disk.BlockBytes)}
	}
	each(io.Bufs, func(i int, part []byte, at int) { copy(fresh[i].data[at:], part) })
	first := io.Off / disk.BlockBytes
	switch {
	case io.Dsync || len(d.blocks) > cachedMax:
		d.putLocked(first, fresh)
		d.laterLocked(func() {
			d.pass(io)
			for i, b := range fresh {
				d.drop(first+int64(i), b)
			}
		})
	case slices.Contains(d.backed[first:first+int64(len(fresh))], false):
		d.laterLocked(func() {
			if io.Err = d.back(first, len(fresh)); io.Err == nil {
				d.mu.Lock()
				d.putLocked(first, fresh)
				d.mu.Unlock()
			}
			io.Done(io)
		})
	default:
		d.putLocked(first, fresh)
		d.ended.Go(func() {
			io.Err = nil
			io.Done(io)
		})
	}
	if rand.Float64() < leakShare {
		d.laterLocked(func() {
			for i, b := range fresh {
				d.leak(first+int64(i), b)
			}
		})
	}
}

func (d *Disk) putLocked(first int64, fresh []*block) {
	for i, b := range fresh {
		d.blocks[first+int64(i)] = b
	}
}

// back makes sure that blocks have room on the disk, a sparse file perhaps, before a write of
// them is acknowledged: it writes what they hold.
func (d *Disk) back(first int64, count int) error {
	io := disk.IO{Op: disk.Read, Off: first * disk.BlockBytes, Bufs: [][]byte{disk.NewAligned(count * disk.BlockBytes)}}
	if d.do(&io); io.Err != nil {
		return io.Err
	}
	io.Op = disk.Write
	if d.do(&io); io.Err != nil {
		return io.Err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range count {
		d.backed[first+int64(i)] = true
	}
	return nil
}

// drop takes a version of a block from the cache, which the disk has now.
func (d *Disk) drop(number int64, b *block) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.blocks[number] == b {
		delete(d.blocks, number)
	}
}

func (d *Disk) isCurrent(number int64, b *block) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.blocks[number] == b
}

// leak has some sectors of a block reach the disk, if it is still what the cache has.
func (d *Disk) leak(number int64, b *block) {
	if !d.isCurrent(number, b) {
		return
	}
	mixed := disk.NewAligned(disk.BlockBytes)
	io := disk.IO{Op: disk.Read, Off: number * disk.BlockBytes, Bufs: [][]byte{mixed}}
	if d.do(&io); io.Err != nil {
		return
	}
	for at := 0; at < disk.BlockBytes; at += disk.SectorBytes {
		if rand.IntN(2) == 0 {
			copy(mixed[at:at+disk.SectorBytes], b.data[at:])
		}
	}
	io.Op = disk.Write
	d.do(&io) // an error shows again when the block is synced
}

// syncLocked brings what is cached now to the disk, and makes it durable there.
func (d *Disk) syncLocked(io *disk.IO) {
	cached := maps.Clone(d.blocks)
	d.laterLocked(func() {
		if err := d.flush(cached); err != nil {
			io.Err = err
			io.Done(io)
			return
		}
		d.pass(io)
		for number, b := range cached {
			d.drop(number, b)
		}
	})
}

// runMax is how many blocks flush writes at a time.
const runMax = 64

// flush writes blocks. What is newer of them comes after it.
func (d *Disk) flush(cached map[int64]*block) error {
	numbers := slices.Sorted(maps.Keys(cached))
	for len(numbers) > 0 {
		n := 1
		for n < min(len(numbers), runMax) && numbers[n] == numbers[n-1]+1 {
			n++
		}
		io := disk.IO{Op: disk.Write, Off: numbers[0] * disk.BlockBytes}
		for _, number := range numbers[:n] {
			io.Bufs = append(io.Bufs, cached[number].data)
		}
		if d.do(&io); io.Err != nil {
			return io.Err
		}
		numbers = numbers[n:]
	}
	return nil
}

// Close implements disk.Disk. What is cached goes to the disk, as it would while there is power.
func (d *Disk) Close() error {
	d.mu.Lock()
	d.closed = true
	d.more.Signal()
	d.mu.Unlock()
	d.ended.Wait()
	d.mu.Lock()
	cached := d.blocks
	d.blocks = map[int64]*block{}
	d.mu.Unlock()
	return errors.Join(d.flush(cached), d.under.Close())
}
