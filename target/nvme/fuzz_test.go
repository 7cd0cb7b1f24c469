package nvme

import (
	"testing"
	"time"
)

// FuzzCommands gives a controller whatever a host may send: entries with data,
// on either queue, some of them not executed at once. Whatever comes, each
// command ends exactly once, by a status, and with no more data than it has
// room for (invariant 1).
//
// The input is a list of records: a byte of flags (1 admin queue, 2 discovery
// controller, 4 execute later, 8 cancel, 16 the SGL length is the entry's own),
// the entry, a byte of data.
func FuzzCommands(f *testing.F) {
	add := func(list ...[64]byte) {
		var in []byte
		for i, e := range list {
			in = append(append(append(in, byte(i)&0xf), e[:]...), 1)
		}
		f.Add(in)
	}
	add(rw(OpRead, 0, 1, 0), sqe(OpIdentify, 0, 1), rw(OpWrite, 0, 1, 0))
	add(fuse(rw(OpCompare, 0, 1, 0), fuseFirst), fuse(rw(OpWrite, 0, 1, 0), fuseSecond))
	add(register(0, 0), acquire(0, 1), acquire(2, 1), release(1, 0))
	add(logEntry(logANA, 64, 0, false), logEntry(logDiscovery, 1024, 0, false))
	add(sqe(OpDatasetManagement, 1, 0, dsmDeallocate), sqe(OpCopy, 1, 0, 0, 0), rw(OpVerify, 0, 100, 0))
	for op := range 256 {
		if ioTable[op] != nil || adminTable[op] != nil {
			add(sqe(uint8(op), 1), sqe(uint8(op), 1), sqe(uint8(op), 1))
		}
	}
	for id := range 256 {
		if featureTable[id] != nil {
			add(sqe(OpGetFeatures, 1, uint32(id)), sqe(OpSetFeatures, 1, uint32(id)), sqe(OpSetFeatures, 1, uint32(id)))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		b := newBed(t)
		disc := b.connectAdmin(hostB, func(r *ConnectRequest) { r.SubNQN = DiscoveryNQN })
		disc.setProperty(propCC, 1)
		var held, all []*call
		for len(in) >= 66 && len(all) < 64 {
			flags, e, fillByte := in[0], [64]byte(in[1:65]), in[65]
			in = in[66:]
			q := b.host.io
			switch flags & 3 {
			case 1:
				q = b.host.admin
			case 2, 3:
				q = disc.admin
			}
			if flags&16 == 0 {
				le.PutUint32(e[32:], naturalLength(q, &e))
			}
			c := &call{Command: &Command{SQE: e}, bed: b, q: q, done: make(chan struct{})}
			c.Done = func(*Command) { close(c.done) } // a second call panics
			if n, ok := c.Fabrics(); ok && (n == FabricsConnect || n == FabricsAuthSend || n == FabricsAuthReceive) {
				continue // the transport's
			}
			if !q.Prepare(c.Command) {
				if c.Status == Success || c.Dir != DirNone || c.Length != 0 {
					t.Fatalf("refused with %v, %d bytes", c.Status, c.Length)
				}
				continue
			}
			if c.Length < 0 || c.Length > MaxTransferBytes || (c.Dir == DirNone) != (c.Length == 0) {
				t.Fatalf("direction %d, %d bytes", c.Dir, c.Length)
			}
			if c.Length > 0 {
				if !b.arena.GetSG(c.Length, &c.sg) {
					q.Cancel(c.Command)
					continue
				}
				c.Data = &c.sg
				for _, s := range c.sg.Segs {
					for i := range s {
						s[i] = fillByte
					}
				}
				if c.Dir == DirOut {
					c.OutLen = c.Length
				}
			}
			switch {
			case flags&8 != 0:
				q.Cancel(c.Command)
				c.sg.Release()
			case flags&4 != 0:
				held, all = append(held, c), append(all, c)
			default:
				all = append(all, c)
				q.Execute(c.Command)
			}
		}
		for _, c := range held {
			c.q.Execute(c.Command)
		}
		b.host.io.Disconnect()
		b.host.admin.Disconnect()
		disc.admin.Disconnect()
		for _, c := range all {
			select {
			case <-c.done:
			case <-time.After(10 * time.Second):
				t.Fatalf("opcode %#x does not end", c.Opcode())
			}
			if c.InLen > c.Length || c.InLen > 0 && c.Dir != DirIn {
				t.Fatalf("%d bytes for the host of %d", c.InLen, c.Length)
			}
			c.sg.Release()
		}
	})
}

// naturalLength is how much data the entry moves if it is well formed.
func naturalLength(q *Queue, e *[64]byte) uint32 {
	dword := func(n int) uint32 { return le.Uint32(e[4*n:]) }
	if q.ID() == 0 {
		switch e[0] {
		case OpIdentify:
			return identifyBytes
		case OpGetLogPage:
			return (uint32(le.Uint16(e[42:])) | uint32(le.Uint16(e[44:]))<<16 + 1) * 4
		}
		return uint32(featureDataBytes(e[40]))
	}
	switch e[0] {
	case OpReservationRegister, OpReservationAcquire, OpReservationRelease:
		return 16
	case OpReservationReport:
		return (dword(10) + 1) * 4
	case OpDatasetManagement:
		return (dword(10)&0xff + 1) * dsmRangeBytes
	case OpCopy:
		return (dword(12)&0xff + 1) * copyRangeBytes
	}
	return (dword(12)&0xffff + 1) * bedBlock
}

func featureDataBytes(id uint8) int {
	if f := featureTable[id]; f != nil {
		return f.dataBytes
	}
	return 0
}

// FuzzConnect checks that no Connect harms, and that a refused one leaves
// nothing behind.
func FuzzConnect(f *testing.F) {
	e := sqe(OpFabrics, 0)
	data := make([]byte, ConnectDataBytes)
	le.PutUint16(e[44:], 31)
	le.PutUint16(data[16:], 0xffff)
	copy(data[256:], bedNQN)
	copy(data[512:], hostA)
	f.Add(e[:], data)
	f.Add(e[:], data[:100])
	f.Fuzz(func(t *testing.T, entry, data []byte) {
		if len(entry) != 64 {
			return
		}
		b := newBed(t)
		before := len(b.sub.Controllers())
		r, err := ParseConnect((*[64]byte)(entry), data)
		if err != nil {
			return
		}
		q, s, _ := b.sub.Connect(&r)
		if (q != nil) != (s == Success) {
			t.Fatalf("queue %v with %v", q, s)
		}
		if q == nil && len(b.sub.Controllers()) != before {
			t.Fatal("a refused Connect made a controller")
		}
		if q != nil {
			q.Disconnect()
		}
	})
}
