package simlink

import (
	"math/rand/v2"
	"net/netip"
	"time"

	"blockd.dev/internal/clock"
)

// Faults are the ways of a wire, for one direction between two addresses. The
// zero value delivers everything at once, in order.
type Faults struct {
	// Loss, Duplicate, Reorder and Corrupt are chances, 0 to 1, per datagram.
	Loss, Duplicate, Reorder, Corrupt float64
	// Delay is what every datagram takes, Jitter up to how much more some take.
	// Jitter alone reorders, too.
	Delay, Jitter time.Duration
	// ReorderBy is how much longer a datagram that Reorder chose takes.
	ReorderBy time.Duration
	// MTU drops longer datagrams, in bytes, silently; 0 for none.
	MTU int
	// Cut drops everything: one half of a partition.
	Cut bool
	// Through is what the datagrams queue for before they travel; nil for
	// nothing. Directions that share a Bottleneck compete for it.
	Through *Bottleneck
}

// Bottleneck sends one datagram after the other and drops what its queue has
// no room for.
type Bottleneck struct {
	BytesPerSecond int64
	QueueBytes     int64
	// Dropped counts the datagrams for which there was no room.
	Dropped uint64

	free clock.Mono // when the last datagram taken so far will have left
}

// pass returns when a datagram of n bytes that comes at now has left.
func (b *Bottleneck) pass(now clock.Mono, n int) (clock.Mono, bool) {
	b.free = max(b.free, now)
	queued := int64(b.free-now) * b.BytesPerSecond / int64(time.Second)
	if queued+int64(n) > b.QueueBytes {
		b.Dropped++
		return 0, false
	}
	b.free = b.free.Add(time.Duration(int64(n) * int64(time.Second) / b.BytesPerSecond))
	return b.free, true
}

// Queued is how many bytes wait at now.
func (b *Bottleneck) Queued(now clock.Mono) int64 {
	return max(0, int64(b.free-now)*b.BytesPerSecond/int64(time.Second))
}

// Counts is what became of the datagrams of a Network.
type Counts struct {
	Sent, Delivered, Lost, Duplicated, Corrupted, TooLong, Congested, NoAddress uint64
}

// Network carries datagrams between its addresses. It is not safe for
// concurrent use.
type Network struct {
	rng    *rand.Rand
	faults map[direction]*Faults
	rest   Faults // of directions that have none of their own
	ports  map[netip.AddrPort]*port
	order  []*port // as added, since a map's order is not the seed's
	spare  [][]byte
	serial uint64
	counts Counts
}

type direction struct{ from, to netip.AddrPort }

// port is an address, with what is on its way there.
type port struct {
	addr   netip.AddrPort
	flying flights
}

// New returns a network on which nothing goes wrong yet.
func New(seed uint64) *Network {
	return &Network{
		rng:    rand.New(rand.NewPCG(seed, 0x6e6574)),
		faults: map[direction]*Faults{},
		ports:  map[netip.AddrPort]*port{},
	}
}

// Add makes addr an address of the network.
func (n *Network) Add(addr netip.AddrPort) {
	if n.ports[addr] == nil {
		p := &port{addr: addr}
		n.ports[addr] = p
		n.order = append(n.order, p)
	}
}

// Remove forgets addr, with what is on its way there.
func (n *Network) Remove(addr netip.AddrPort) {
	for i, p := range n.order {
		if p.addr == addr {
			for len(p.flying) > 0 {
				n.Recycle(p.flying.pop().data)
			}
			n.order = append(n.order[:i], n.order[i+1:]...)
		}
	}
	delete(n.ports, addr)
}

// SetAll sets what happens between addresses for which Set was not called.
func (n *Network) SetAll(f Faults) { n.rest = f }

// Set sets what happens to datagrams sent from one address to another. What
// is on its way stays so.
func (n *Network) Set(from, to netip.AddrPort, f Faults) { n.faults[direction{from, to}] = &f }

// Get returns what happens to datagrams sent from one address to another.
func (n *Network) Get(from, to netip.AddrPort) Faults { return *n.between(from, to) }

func (n *Network) between(from, to netip.AddrPort) *Faults {
	if f := n.faults[direction{from, to}]; f != nil {
		return f
	}
	return &n.rest
}

// Counts returns what happened so far.
func (n *Network) Counts() Counts { return n.counts }

// Send puts a copy of datagram on its way.
func (n *Network) Send(now clock.Mono, from, to netip.AddrPort, datagram []byte) {
	n.counts.Sent++
	p, f := n.ports[to], n.between(from, to)
	switch {
	case p == nil:
		n.counts.NoAddress++
		return
	case f.MTU > 0 && len(datagram) > f.MTU:
		n.counts.TooLong++
		return
	case f.Cut || n.chance(f.Loss):
		n.counts.Lost++
		return
	}
	copies := 1
	if n.chance(f.Duplicate) {
		copies = 2
		n.counts.Duplicated++
	}
	for range copies {
		left := now
		if f.Through != nil {
			var ok bool
			if left, ok = f.Through.pass(now, len(datagram)); !ok {
				n.counts.Congested++
				continue
			}
		}
		n.launch(p, from, left, f, datagram)
	}
}

func (n *Network) launch(p *port, from netip.AddrPort, at clock.Mono, f *Faults, datagram []byte) {
	at = at.Add(f.Delay)
	if f.Jitter > 0 {
		at = at.Add(time.Duration(n.rng.Int64N(int64(f.Jitter))))
	}
	if n.chance(f.Reorder) {
		at = at.Add(f.ReorderBy)
	}
	data := append(n.buffer(), datagram...)
	if n.chance(f.Corrupt) {
		n.corrupt(&data)
	}
	n.serial++
	p.flying.push(flight{at: at, serial: n.serial, from: from, data: data})
}

// corrupt flips a bit, or cuts the datagram short.
func (n *Network) corrupt(data *[]byte) {
	n.counts.Corrupted++
	if i := n.rng.IntN(len(*data)); n.rng.IntN(4) == 0 && i > 0 {
		*data = (*data)[:i]
	} else {
		(*data)[i] ^= 1 << n.rng.IntN(8)
	}
}

func (n *Network) chance(p float64) bool { return p > 0 && n.rng.Float64() < p }

func (n *Network) buffer() []byte {
	if last := len(n.spare) - 1; last >= 0 {
		b := n.spare[last]
		n.spare = n.spare[:last]
		return b
	}
	return make([]byte, 0, 2048)
}

// Next returns when the next datagram arrives anywhere; clock.Never if none is
// on its way.
func (n *Network) Next() clock.Mono {
	next := clock.Never
	for _, p := range n.order {
		next = min(next, p.next())
	}
	return next
}

// NextAt is Next for one address.
func (n *Network) NextAt(addr netip.AddrPort) clock.Mono {
	if p := n.ports[addr]; p != nil {
		return p.next()
	}
	return clock.Never
}

func (p *port) next() clock.Mono {
	if len(p.flying) == 0 {
		return clock.Never
	}
	return p.flying[0].at
}

// Receive returns the next datagram that has arrived at addr by now; ok is
// false when there is none. data is the caller's, who may give it to Recycle.
func (n *Network) Receive(now clock.Mono, addr netip.AddrPort) (data []byte, from netip.AddrPort, ok bool) {
	p := n.ports[addr]
	if p == nil || len(p.flying) == 0 || p.flying[0].at > now {
		return nil, netip.AddrPort{}, false
	}
	f := p.flying.pop()
	n.counts.Delivered++
	return f.data, f.from, true
}

// Recycle takes back the memory of a datagram.
func (n *Network) Recycle(data []byte) {
	if len(n.spare) < 1024 {
		n.spare = append(n.spare, data[:0])
	}
}

// flight is one datagram on its way.
type flight struct {
	at     clock.Mono
	serial uint64 // makes the order of simultaneous arrivals that of sending
	from   netip.AddrPort
	data   []byte
}

func (f *flight) before(o *flight) bool {
	return f.at < o.at || f.at == o.at && f.serial < o.serial
}

// flights is a binary heap, the earliest first.
type flights []flight

func (h *flights) push(f flight) {
	s := append(*h, f)
	i := len(s) - 1
	for i > 0 {
		up := (i - 1) / 2
		if !s[i].before(&s[up]) {
			break
		}
		s[i], s[up] = s[up], s[i]
		i = up
	}
	*h = s
}

func (h *flights) pop() flight {
	s := *h
	first, last := s[0], len(s)-1
	s[0] = s[last]
	s[last] = flight{}
	s = s[:last]
	for i := 0; ; {
		small := i
		for _, kid := range [2]int{2*i + 1, 2*i + 2} {
			if kid < len(s) && s[kid].before(&s[small]) {
				small = kid
			}
		}
		if small == i {
			break
		}
		s[i], s[small] = s[small], s[i]
		i = small
	}
	*h = s
	return first
}
