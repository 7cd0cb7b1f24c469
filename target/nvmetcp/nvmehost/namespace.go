package nvmehost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"blockd.dev/blockdev"
	"blockd.dev/target/nvme"
)

// Namespace is a namespace as a device. Requests of one Submit go to one
// queue, those of the next Submit to the next queue.
type Namespace struct {
	host  *Host
	nsid  uint32
	shift uint // of the block size
	geo   atomic.Pointer[blockdev.Geometry]
	next  atomic.Uint32
	watch blockdev.Watchers
	calls sync.Pool
	ops   sync.Pool
}

// op is a request of a device that is under way as one or more calls.
type op struct {
	n    *Namespace
	req  *blockdev.Request
	left atomic.Int32
	once sync.Mutex
	err  error
}

// Namespace opens a namespace.
func (h *Host) Namespace(nsid uint32) (*Namespace, error) {
	n := &Namespace{host: h, nsid: nsid}
	n.calls.New = func() any { return &Call{} }
	n.ops.New = func() any { return &op{n: n} }
	g, shift, err := n.identify()
	if err != nil {
		return nil, err
	}
	n.shift = shift
	n.geo.Store(&g)
	h.mu.Lock()
	h.mu.namespaces = append(h.mu.namespaces, n)
	h.mu.Unlock()
	return n, nil
}

func (n *Namespace) identify() (g blockdev.Geometry, shift uint, err error) {
	buf := make([]byte, 4096)
	c := &Call{Data: [][]byte{buf}}
	c.command(nvme.OpIdentify, n.nsid)
	if err := n.host.Admin(c); err != nil {
		return g, 0, fmt.Errorf("nvmehost: identify namespace %d: %w", n.nsid, err)
	}
	size := binary.LittleEndian.Uint64(buf)
	format := binary.LittleEndian.Uint32(buf[128+4*int(buf[26]&0xf):])
	shift = uint(format >> 16 & 0xff)
	if size == 0 || shift < 9 || shift > 16 || size > 1<<62>>shift {
		return g, 0, fmt.Errorf("nvmehost: namespace %d is not there", n.nsid)
	}
	g = blockdev.Geometry{SizeBytes: int64(size << shift), BlockSize: 1 << shift, PhysicalBlockSize: 1 << shift}
	if buf[24]&1 != 0 {
		g.Thin = true
	}
	g.UnmapGranularity = g.BlockSize
	if buf[24]&(1<<4) != 0 { // OPTPERF: NPWG and NPDG are valid, 0's based in blocks
		g.PhysicalBlockSize = (int(binary.LittleEndian.Uint16(buf[64:])) + 1) << shift
		g.UnmapGranularity = (int(binary.LittleEndian.Uint16(buf[68:])) + 1) << shift
	}
	g.ReadOnly = buf[99]&1 != 0
	g.Poisons = binary.LittleEndian.Uint16(n.host.ident[520:])&2 != 0 // ONCS: Write Uncorrectable
	return g, shift, nil
}

// refresh follows a change of size or protection.
func (n *Namespace) refresh() {
	old := n.geo.Load()
	g, _, err := n.identify()
	switch {
	case err != nil && !isGone(err):
		n.watch.Notify(blockdev.ChangeGone)
	case err != nil:
	case g != *old:
		n.geo.Store(&g)
		if g.SizeBytes != old.SizeBytes {
			n.watch.Notify(blockdev.ChangeSize)
		}
		if g.ReadOnly != old.ReadOnly {
			n.watch.Notify(blockdev.ChangeReadOnly)
		}
	}
}

// Geometry is the namespace's shape as Identify Namespace gave it last.
func (n *Namespace) Geometry() blockdev.Geometry { return *n.geo.Load() }

// Watch calls fn after changes that the controller told of; see WatchEvents.
func (n *Namespace) Watch(fn func(blockdev.Change)) (stop func()) { return n.watch.Add(fn) }

// Submit starts the requests.
func (n *Namespace) Submit(batch []*blockdev.Request) {
	q := n.host.queues[int(n.next.Add(1))%len(n.host.queues)]
	g := n.geo.Load()
	for _, r := range batch {
		if err := blockdev.Validate(*g, r); err != nil {
			blockdev.Complete(r, err)
			continue
		}
		if r.Length == 0 && r.Op != blockdev.OpFlush {
			blockdev.Complete(r, nil)
			continue
		}
		n.start(q, r)
	}
	q.flush()
}

// start sends the commands of one request.
func (n *Namespace) start(q *queue, r *blockdev.Request) {
	o := n.ops.Get().(*op)
	o.req, o.err = r, nil
	o.left.Store(1) // until all are sent
	switch r.Op {
	case blockdev.OpRead, blockdev.OpWrite:
		n.transfer(q, o)
	case blockdev.OpFlush:
		c := n.call(o)
		c.command(nvme.OpFlush, n.nsid)
		q.submit(c)
	case blockdev.OpUnmap:
		n.deallocate(q, o)
	case blockdev.OpWriteZeroes:
		n.zeroes(q, o)
	case blockdev.OpPoison:
		n.poison(q, o)
	case blockdev.OpCompareAndWrite:
		n.compareAndWrite(q, o)
	}
	o.release(nil)
}

// call takes a Call for one command of o.
func (n *Namespace) call(o *op) *Call {
	c := n.calls.Get().(*Call)
	c.op, c.Done = o, callDone
	o.left.Add(1)
	return c
}

// blocksMax is the most blocks of one command: NLB has 16 bits, 0's based.
const blocksMax = 1 << 16

// extent fills in SLBA and NLB.
func (c *Call) extent(slba uint64, blocks int64, flags uint32) {
	binary.LittleEndian.PutUint64(c.SQE[40:], slba)
	c.dword(12, uint32(blocks-1)|flags)
}

const (
	flagFUA  = 1 << 30
	flagDEAC = 1 << 25
)

// pieceBytes is the longest data of one command.
func (n *Namespace) pieceBytes() int64 {
	return min(int64(n.host.mdts), blocksMax<<n.shift)
}

func (n *Namespace) transfer(q *queue, o *op) {
	r := o.req
	code, flags := nvme.OpRead, uint32(0)
	if r.Op == blockdev.OpWrite {
		code = nvme.OpWrite
	}
	if r.FUA {
		flags = flagFUA
	}
	piece := n.pieceBytes()
	for off := int64(0); off < r.Length; off += piece {
		m := min(piece, r.Length-off)
		c := n.call(o)
		c.command(code, n.nsid)
		c.extent(uint64(r.Offset+off)>>n.shift, m>>n.shift, flags)
		c.Out = r.Op == blockdev.OpWrite
		if m == r.Length {
			c.Data = r.Data
		} else {
			c.Data = slice(r.Data, int(off), int(m), nil)
		}
		q.submit(c)
	}
}

func (n *Namespace) zeroes(q *queue, o *op) {
	r := o.req
	flags := uint32(flagDEAC)
	if r.NoUnmap {
		flags = 0
	}
	if r.FUA {
		flags |= flagFUA
	}
	piece := int64(blocksMax) << n.shift
	for off := int64(0); off < r.Length; off += piece {
		m := min(piece, r.Length-off)
		c := n.call(o)
		c.command(nvme.OpWriteZeroes, n.nsid)
		c.extent(uint64(r.Offset+off)>>n.shift, m>>n.shift, flags)
		q.submit(c)
	}
}

// poison sends Write Uncorrectable, which takes no FUA.
func (n *Namespace) poison(q *queue, o *op) {
	r := o.req
	piece := int64(blocksMax) << n.shift
	for off := int64(0); off < r.Length; off += piece {
		m := min(piece, r.Length-off)
		c := n.call(o)
		c.command(nvme.OpWriteUncorrectable, n.nsid)
		c.extent(uint64(r.Offset+off)>>n.shift, m>>n.shift, 0)
		q.submit(c)
	}
}

// rangeMax is the most blocks of one Dataset Management range.
const rangeMax = 1<<32 - 1

// deallocate sends one command for each 256 ranges; a device of 2^40 blocks
// takes one.
func (n *Namespace) deallocate(q *queue, o *op) {
	r := o.req
	slba, left := uint64(r.Offset)>>n.shift, r.Length>>n.shift
	for left > 0 {
		var out []byte
		ranges := 0
		for ; left > 0 && ranges < 256; ranges++ {
			m := min(left, rangeMax)
			out = binary.LittleEndian.AppendUint32(out, 0)
			out = binary.LittleEndian.AppendUint32(out, uint32(m))
			out = binary.LittleEndian.AppendUint64(out, slba)
			slba += uint64(m)
			left -= m
		}
		c := n.call(o)
		c.command(nvme.OpDatasetManagement, n.nsid)
		c.dword(10, uint32(ranges-1))
		c.dword(11, 1<<2) // deallocate
		c.Out = true
		c.scr[0] = out
		c.Data = c.scr[:]
		q.submit(c)
	}
}

// compareAndWrite sends a fused pair.
func (n *Namespace) compareAndWrite(q *queue, o *op) {
	r := o.req
	a, b := n.call(o), n.call(o)
	slba, blocks := uint64(r.Offset)>>n.shift, r.Length>>n.shift
	a.command(nvme.OpCompare, n.nsid)
	a.extent(slba, blocks, 0)
	a.Data, a.Out = slice(r.Data, 0, int(r.Length), nil), true
	b.command(nvme.OpWrite, n.nsid)
	flags := uint32(0)
	if r.FUA {
		flags = flagFUA
	}
	b.extent(slba, blocks, flags)
	b.Data, b.Out = slice(r.Data, int(r.Length), int(r.Length), nil), true
	a.SQE[1], b.SQE[1] = 1, 2
	a.fused = b
	q.submit(a)
}

// callDone is the Done of every Call of a request.
func callDone(c *Call) {
	o := c.op
	var err error
	switch {
	case c.Err != nil:
		err = blockdev.NewError(blockdev.ErrGone, o.req, -1, c.Err)
	case c.Status&0x7ff == abortedFailedFused:
		// The other half says why.
	case c.Status&0x7ff != 0:
		err = blockdev.NewError(kindOf(c.Status), o.req, -1, &StatusError{Op: c.SQE[0], Status: c.Status})
	}
	n := o.n
	c.reset()
	n.calls.Put(c)
	o.release(err)
}

const abortedFailedFused = 0x009

// release counts one command of o as ended; the last ends the request.
func (o *op) release(err error) {
	if err != nil {
		o.once.Lock()
		if o.err == nil {
			o.err = err
		}
		o.once.Unlock()
	}
	if o.left.Add(-1) > 0 {
		return
	}
	r, n := o.req, o.n
	err = o.err
	o.req, o.err = nil, nil
	n.ops.Put(o)
	if err != nil && r.Op == blockdev.OpCompareAndWrite && errors.Is(err, blockdev.ErrMiscompare) {
		n.findDifference(r, err)
		return
	}
	blockdev.Complete(r, err)
}

// findDifference reads what a Compare found different: NVMe does not tell
// where the first difference is. What has changed since shows as no
// difference, and the request's offset is given.
func (n *Namespace) findDifference(r *blockdev.Request, cause error) {
	got := make([]byte, r.Length)
	read := &blockdev.Request{Op: blockdev.OpRead, Offset: r.Offset, Length: r.Length, Data: [][]byte{got}}
	read.Done = func(read *blockdev.Request) {
		at := int64(-1)
		if read.Err == nil {
			i := 0
			for _, s := range slice(r.Data, 0, int(r.Length), nil) {
				for _, b := range s {
					if got[i] != b {
						at = r.Offset + int64(i)
						break
					}
					i++
				}
				if at >= 0 {
					break
				}
			}
		}
		blockdev.Complete(r, blockdev.NewError(blockdev.ErrMiscompare, r, at, cause))
	}
	n.Submit([]*blockdev.Request{read})
}

var _ blockdev.Device = (*Namespace)(nil)
