package extmap

import (
	"fmt"
	"slices"
	"sort"
)

// Sizes.
const (
	// ShardBytes is what one disk keeps of one extent.
	ShardBytes = 64 << 20
	// UnitBytes is how much of a volume lies on one extent before the next one
	// of its row has its turn. An aligned request of up to 1 MiB goes to one
	// replica set, so it has one sequence number and one round trip; a
	// sequential stream with a few of them in flight still uses all of a row.
	UnitBytes = 1 << 20
	// WidthMax is how many extents make a full row. Eight of them with three
	// copies are spread over up to 24 disks; more would make a small volume
	// touch more extents than it fills.
	WidthMax = 8
	// ExtentsMax is the most extents of one volume: 2 PiB of 64 MiB each.
	ExtentsMax = 1 << 25
	// segmentsMax bounds what many small growths cost.
	segmentsMax = 1024
)

// Policy says how an extent is kept. Either Replicas is 1 to 5, or Data is 2
// to 10 and Parity 1 to 4, 12 together at most.
type Policy struct {
	Replicas     uint8
	Data, Parity uint8
}

// Width is how many disks keep an extent.
func (p Policy) Width() int { return int(p.Replicas) + int(p.Data) + int(p.Parity) }

// Needed is how many disks in sync it takes to read an extent.
func (p Policy) Needed() int { return max(1, int(p.Data)) }

// ExtentBytes is how much of a volume's address space an extent covers.
func (p Policy) ExtentBytes() int64 { return int64(p.Needed()) * ShardBytes }

// String is "3 copies" or "4+2".
func (p Policy) String() string {
	if p.Replicas > 0 {
		return fmt.Sprintf("%d copies", p.Replicas)
	}
	return fmt.Sprintf("%d+%d", p.Data, p.Parity)
}

// Validate returns an error in words when p is none of the possible ones.
func (p Policy) Validate() error {
	copies := p.Replicas >= 1 && p.Replicas <= 5 && p.Data == 0 && p.Parity == 0
	coded := p.Replicas == 0 && p.Data >= 2 && p.Data <= 10 && p.Parity >= 1 && p.Parity <= 4 && p.Data+p.Parity <= 12
	if copies || coded {
		return nil
	}
	return fmt.Errorf("extmap: %d copies, %d+%d: a policy is 1 to 5 copies, or 2 to 10 data and 1 to 4 parity shards, 12 together at most", p.Replicas, p.Data, p.Parity)
}

// Layout says which extent an address of a volume is on. Extents are taken in
// segments of rows; a row of n extents is striped over them by UnitBytes.
// Growing a volume adds segments and moves nothing: full rows as long as they
// fit, and one shorter row for the rest. So a small volume has no more extents
// than its size needs. With erasure coding rows have one extent, which is
// spread over the data disks already.
//
// A Layout is immutable.
type Layout struct {
	extentBytes int64
	segments    []segment
}

// segment is some rows of one width, contiguous in extents and in addresses.
type segment struct {
	first, extents uint32 // extents is a multiple of width
	width          uint32
}

// Extents returns how many extents the volume has.
func (l Layout) Extents() uint32 {
	if len(l.segments) == 0 {
		return 0
	}
	s := l.segments[len(l.segments)-1]
	return s.first + s.extents
}

// SizeBytes is how many bytes of address space the extents cover.
func (l Layout) SizeBytes() int64 { return int64(l.Extents()) * l.extentBytes }

// ExtentsFor returns how many extents a volume of size bytes needs.
func (p Policy) ExtentsFor(size int64) uint32 {
	return uint32((size + p.ExtentBytes() - 1) / p.ExtentBytes())
}

// Locate returns the extent that keeps the byte at addr, the offset in it, and
// how many bytes from there on lie on it contiguously. addr is 0 or more and
// below SizeBytes. With erasure coding the offset counts data, not shards.
func (l Layout) Locate(addr int64) (extent uint32, offset, run int64) {
	index := uint32(addr / l.extentBytes)
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].first > index }) - 1
	s := l.segments[i]
	a := addr - int64(s.first)*l.extentBytes
	if s.width == 1 {
		return index, a % l.extentBytes, l.extentBytes - a%l.extentBytes
	}
	row := int64(s.width) * l.extentBytes
	unit, within := a%row/UnitBytes, a%UnitBytes
	extent = s.first + uint32(a/row)*s.width + uint32(unit)%s.width
	return extent, unit/int64(s.width)*UnitBytes + within, UnitBytes - within
}

// grow returns a Layout with more extents, up to total.
func (l Layout) grow(p Policy, total uint32) (Layout, error) {
	have := l.Extents()
	if total < have || total > ExtentsMax {
		return l, fmt.Errorf("extmap: %d extents: a volume grows only, it has %d, and has %d at most", total, have, ExtentsMax)
	}
	widest := uint32(WidthMax)
	if p.Data > 0 {
		widest = 1
	}
	n := Layout{p.ExtentBytes(), slices.Clone(l.segments)}
	full := (total - have) / widest * widest
	n.add(full, widest)
	n.add(total-have-full, total-have-full)
	if len(n.segments) > segmentsMax {
		return l, fmt.Errorf("extmap: the volume was grown too often by odd sizes; create a new one and copy")
	}
	return n, nil
}

func (l *Layout) add(extents, width uint32) {
	if extents == 0 {
		return
	}
	if k := len(l.segments); k > 0 && l.segments[k-1].width == width {
		l.segments[k-1].extents += extents
		return
	}
	l.segments = append(l.segments, segment{l.Extents(), extents, width})
}
