package extmap

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"
)

// A Map as a stream; numbers are little-endian, volumes, disks, pages and
// moves in their order:
//
//	| 8 magic and version "BDEXTMP2" | 4 count | volume ... | 4 CRC-32C of all before |
//	volume:  | head | page ... | 4 ffffffff |
//	head:    | 16 id | 1 replicas | 1 data | 1 parity | 4 count | segment ... | 4 count | sync ... |
//	segment: | 4 extents | 4 width |
//	sync:    | 2 disk | 1 state, and 80 hex with a proof | 8 generation | 8 proof, if it has one |
//	page:    | 4 number | 2 count | move ... | 2 word ... |
//	move:    | 4 extent | 2 from | 2 to |
//
// The hash of a Map is made of the same heads and pages.
const magic = "BDEXTMP2"

// hasProof stands beside the state of a disk.
const hasProof = 0x80

const noPage = 1<<32 - 1

var le = binary.LittleEndian

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrFormat is what Read wraps when the bytes are not a Map.
var ErrFormat = errors.New("not an extent map that this release reads, or damaged")

func (v *Volume) appendHead(b []byte) []byte {
	b = append(b, v.id[:]...)
	b = append(b, v.policy.Replicas, v.policy.Data, v.policy.Parity)
	b = le.AppendUint32(b, uint32(len(v.layout.segments)))
	for _, s := range v.layout.segments {
		b = le.AppendUint32(b, s.extents)
		b = le.AppendUint32(b, s.width)
	}
	b = le.AppendUint32(b, uint32(len(v.syncs)))
	for _, s := range v.syncs {
		b = le.AppendUint16(b, uint16(s.Disk))
		if s.Proof == 0 { // as releases write it that know of none
			b = append(b, byte(s.State))
			b = le.AppendUint64(b, s.Generation)
			continue
		}
		b = append(b, byte(s.State)|hasProof)
		b = le.AppendUint64(b, s.Generation)
		b = le.AppendUint64(b, s.Proof)
	}
	return b
}

func appendPage(b []byte, number uint32, p page) []byte {
	b = le.AppendUint32(b, number)
	b = le.AppendUint16(b, uint16(len(p.moves)))
	for _, move := range p.moves {
		b = le.AppendUint32(b, move.Extent)
		b = le.AppendUint16(b, uint16(move.From))
		b = le.AppendUint16(b, uint16(move.To))
	}
	for _, w := range p.words {
		b = le.AppendUint16(b, uint16(w))
	}
	return b
}

func (v *Volume) headHash() [32]byte { return sha256.Sum256(v.appendHead([]byte("head"))) }

func (v *Volume) pageHash(number uint32, p page) [32]byte {
	b := append(make([]byte, 0, 32+len(p.moves)*8+len(p.words)*2), "page"...)
	return sha256.Sum256(appendPage(append(b, v.id[:]...), number, p))
}

// WriteTo writes the Map; equal Maps write equal bytes. It holds one page at a
// time in memory beside the Map.
func (m Map) WriteTo(w io.Writer) (int64, error) {
	out := &checked{w: w, crc: crc32.New(castagnoli)}
	buffered := bufio.NewWriterSize(out, 1<<16)
	b := le.AppendUint32([]byte(magic), uint32(m.volumes.Len()))
	_, err := buffered.Write(b)
	for _, v := range m.volumes.All() {
		if err == nil {
			b = v.appendHead(b[:0])
			_, err = buffered.Write(b)
		}
		for number, p := range v.pages() {
			if err != nil {
				return out.n, err
			}
			b = appendPage(b[:0], number, p)
			_, err = buffered.Write(b)
		}
		if err == nil {
			_, err = buffered.Write(le.AppendUint32(b[:0], noPage))
		}
	}
	if err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		_, err = out.Write(le.AppendUint32(nil, out.crc.Sum32()))
	}
	return out.n, err
}

type checked struct {
	w   io.Writer
	crc hash.Hash32
	n   int64
}

func (c *checked) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.crc.Write(b[:n])
	c.n += int64(n)
	return n, err
}

// Read reads what WriteTo wrote and not a byte more, and checks the invariants
// that need no Topology. Give it a buffered reader: it reads page by page. An
// error wraps ErrFormat or what r returned. Memory grows with what was read.
func Read(r io.Reader) (Map, error) {
	in := &reader{r: r, crc: crc32.New(castagnoli)}
	if head := in.next(len(magic)); in.err == nil && string(head) != magic {
		return Map{}, fmt.Errorf("extmap: a map begins with %q: %w", head, ErrFormat)
	}
	var m Map
	var last VolumeID
	for i := range in.u32() {
		v := in.volume(&m)
		if in.err == nil && i > 0 && string(last[:]) >= string(v.id[:]) {
			in.fail("volume %x is out of order", v.id)
		}
		if in.err != nil {
			return Map{}, in.err
		}
		last, m = v.id, m.replace(v)
	}
	want := in.crc.Sum32()
	if got := in.u32(); in.err == nil && got != want {
		in.fail("the checksum is %08x, not %08x", got, want)
	}
	if in.err != nil {
		return Map{}, in.err
	}
	return m, nil
}

// reader keeps the first error; then all that it reads is zero.
type reader struct {
	r    io.Reader
	crc  hash.Hash32
	buf  []byte
	used []uint32 // of the volume that is being read
	err  error
}

func (in *reader) fail(format string, args ...any) {
	if in.err == nil {
		in.err = fmt.Errorf("extmap: read: %s: %w", fmt.Sprintf(format, args...), ErrFormat)
	}
}

// next returns the next n bytes, valid until the next call.
func (in *reader) next(n int) []byte {
	in.buf = slices.Grow(in.buf[:0], n)[:n]
	if in.err == nil {
		if _, err := io.ReadFull(in.r, in.buf); err != nil {
			in.err = fmt.Errorf("extmap: the map is cut short: %w", err)
		}
		in.crc.Write(in.buf)
	}
	if in.err != nil {
		clear(in.buf)
	}
	return in.buf
}

func (in *reader) u32() uint32 { return le.Uint32(in.next(4)) }

func (in *reader) volume(m *Map) *Volume {
	v := &Volume{}
	copy(v.id[:], in.next(len(v.id)))
	b := in.next(3)
	v.policy = Policy{b[0], b[1], b[2]}
	if err := v.policy.Validate(); err != nil {
		in.fail("volume %x: %v", v.id, err)
		return v
	}
	in.layout(v)
	in.sync(v)
	v.sum = v.sum.Add(v.headHash())
	clear(in.used)
	last := int64(-1)
	for number := in.u32(); in.err == nil && number != noPage; number = in.u32() {
		if int64(number) <= last || number > (v.layout.Extents()-1)/pageExtents || v.layout.Extents() == 0 {
			in.fail("volume %x: page %d is out of order or beyond the volume", v.id, number)
			return v
		}
		last = int64(number)
		in.page(v, number)
	}
	said := v.syncs
	v.tally(in.used)
	m.used = plus(m.used, in.used)
	if in.err == nil && !slices.Equal(said, v.syncs) {
		in.fail("volume %x: a disk is not in sync, or proves something, that has nothing of it", v.id)
	}
	if extent, ok := v.unreadable(); in.err == nil && ok {
		in.fail("volume %x: extent %d has too few disks in sync", v.id, extent)
	}
	return v
}

func (in *reader) layout(v *Volume) {
	v.layout.extentBytes = v.policy.ExtentBytes()
	widest := uint32(WidthMax)
	if v.policy.Data > 0 {
		widest = 1
	}
	n := in.u32()
	if n > segmentsMax {
		in.fail("volume %x has %d segments", v.id, n)
		return
	}
	for range n {
		b := in.next(8)
		extents, width := le.Uint32(b), le.Uint32(b[4:])
		k := len(v.layout.segments)
		if width == 0 || width > widest || extents == 0 || extents%width != 0 || extents > ExtentsMax-v.layout.Extents() ||
			k > 0 && v.layout.segments[k-1].width == width {
			in.fail("volume %x: %d extents in rows of %d", v.id, extents, width)
			return
		}
		v.layout.add(extents, width)
	}
	v.root = make([]*node, (v.layout.Extents()+pageExtents*nodePages-1)/(pageExtents*nodePages))
}

func (in *reader) sync(v *Volume) {
	n := in.u32()
	for range n {
		if in.err != nil {
			return
		}
		b := in.next(11)
		s := Sync{Disk: Disk(le.Uint16(b)), State: SyncState(b[2] &^ hasProof), Generation: le.Uint64(b[3:])}
		bare := b[2]&hasProof == 0
		if !bare {
			s.Proof = le.Uint64(in.next(8))
		}
		k := len(v.syncs)
		if s.Disk == 0 || bare && s.Generation == 0 || !bare && s.Proof == 0 || s.State > Rebuilding || k > 0 && v.syncs[k-1].Disk >= s.Disk {
			in.fail("volume %x: disk %d is %s in generation %d", v.id, s.Disk, s.State, s.Generation)
			return
		}
		v.syncs = append(v.syncs, s)
	}
}

func (in *reader) page(v *Volume, number uint32) {
	p := &page{}
	for range int(le.Uint16(in.next(2))) {
		b := in.next(8)
		move := Move{le.Uint32(b), Disk(le.Uint16(b[4:])), Disk(le.Uint16(b[6:]))}
		if k := len(p.moves); in.err != nil || move.Extent/pageExtents != number || move.To == 0 || k > 0 && p.moves[k-1].Extent >= move.Extent {
			in.fail("volume %x: move of extent %d", v.id, move.Extent)
			return
		}
		p.moves = append(p.moves, move)
		in.used = count(in.used, move.To, 1)
	}
	stride := v.stride()
	b := in.next(pageExtents * stride * 2)
	if in.err != nil {
		return
	}
	p.words = make([]Disk, pageExtents*stride)
	for i := range p.words {
		p.words[i] = Disk(le.Uint16(b[2*i:]))
	}
	allocated := v.allocated
	if !in.checkPage(v, number, p) {
		return
	}
	for _, move := range p.moves {
		at := int(move.Extent%pageExtents) * stride
		if set := p.words[at+genWords : at+stride]; !slices.Contains(set, move.From) || slices.Contains(set, move.To) {
			in.fail("volume %x: move of extent %d from disk %d to %d, its disks are %d", v.id, move.Extent, move.From, move.To, set)
			return
		}
	}
	if allocated == v.allocated && !slices.ContainsFunc(p.words, func(w Disk) bool { return w != 0 }) {
		in.fail("volume %x: page %d is empty", v.id, number)
		return
	}
	v.sum = v.sum.Add(v.pageHash(number, *p))
	n := &v.root[number/nodePages]
	if *n == nil {
		*n = &node{}
	}
	(*n).words[number%nodePages] = p.words
	if len(p.moves) > 0 {
		if (*n).moves == nil {
			(*n).moves = &[nodePages][]Move{}
		}
		(*n).moves[number%nodePages] = p.moves
	}
}

// checkPage checks the sets of a page and counts their disks.
func (in *reader) checkPage(v *Volume, number uint32, p *page) bool {
	stride := v.stride()
	for i := 0; i < len(p.words); i += stride {
		set, generation := p.words[i+genWords:i+stride], p.words[i:i+genWords]
		extent := number*pageExtents + uint32(i/stride)
		if set[0] == 0 && generation[0] == 0 && generation[1] == 0 && !slices.ContainsFunc(set, func(d Disk) bool { return d != 0 }) {
			continue
		}
		if extent >= v.layout.Extents() || set[0] != 0 && generation[0] == 0 && generation[1] == 0 {
			in.fail("volume %x: extent %d is beyond the volume or has generation 0", v.id, extent)
			return false
		}
		for k, d := range set {
			if (d == 0) != (set[0] == 0) || d != 0 && slices.Contains(set[:k], d) {
				in.fail("volume %x: extent %d has disks %d", v.id, extent, set)
				return false
			}
			in.used = count(in.used, d, 1)
		}
		if set[0] != 0 {
			v.allocated++
		}
	}
	return true
}
