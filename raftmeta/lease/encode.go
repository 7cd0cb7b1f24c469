package lease

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A Table as a stream; numbers are big-endian, entries in the order of volumes:
//
//	| 8 magic and version "BDLEASE1" | 8 count | entry ... | 4 CRC-32C of all before |
//	entry: | 16 volume | 8 epoch | 8 incarnation | 1 length | owner |
//
// An unowned entry has length 0 and incarnation 0.
const magic = "BDLEASE1"

const entryFixed = 16 + 8 + 8 + 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrFormat is what ReadTable wraps when the bytes are not a Table.
var ErrFormat = errors.New("not a table of leases that this release reads, or damaged")

func appendEntry(b []byte, v VolumeID, e Entry) []byte {
	b = append(b, v[:]...)
	b = binary.BigEndian.AppendUint64(b, e.Epoch)
	b = binary.BigEndian.AppendUint64(b, e.Incarnation)
	b = append(b, byte(len(e.Owner)))
	return append(b, e.Owner...)
}

// WriteTo writes the Table; equal Tables write equal bytes.
func (t Table) WriteTo(w io.Writer) (int64, error) {
	crc := crc32.New(castagnoli)
	out := &counter{w: w}
	buffered := bufio.NewWriter(io.MultiWriter(out, crc))
	b := binary.BigEndian.AppendUint64([]byte(magic), uint64(t.Len()))
	_, err := buffered.Write(b)
	for v, e := range t.All() {
		if err != nil {
			return out.n, err
		}
		b = appendEntry(b[:0], v, e)
		_, err = buffered.Write(b)
	}
	if err == nil {
		err = buffered.Flush()
	}
	if err == nil {
		_, err = out.Write(binary.BigEndian.AppendUint32(nil, crc.Sum32()))
	}
	return out.n, err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

// ReadTable reads what WriteTo wrote and not a byte more, so that other
// things may follow. An error wraps ErrFormat or what r returned. Memory
// grows with what was read, never with what a length claims.
func ReadTable(r io.Reader) (Table, error) {
	crc := crc32.New(castagnoli)
	in := io.TeeReader(r, crc)
	head := make([]byte, len(magic)+8)
	if _, err := io.ReadFull(in, head); err != nil {
		return Table{}, fmt.Errorf("lease: read a table: %w", err)
	}
	if string(head[:len(magic)]) != magic {
		return Table{}, fmt.Errorf("lease: a table begins with %q: %w", head[:len(magic)], ErrFormat)
	}
	var t Table
	var last VolumeID
	b := make([]byte, entryFixed+NodeMax)
	for i := range binary.BigEndian.Uint64(head[len(magic):]) {
		v, e, err := readEntry(in, b)
		if err != nil {
			return Table{}, fmt.Errorf("lease: read entry %d: %w", i, err)
		}
		if i > 0 && string(last[:]) >= string(v[:]) {
			return Table{}, fmt.Errorf("lease: entry %d is out of order: %w", i, ErrFormat)
		}
		last, t = v, t.with(v, e)
	}
	want := crc.Sum32()
	if _, err := io.ReadFull(r, head[:4]); err != nil {
		return Table{}, fmt.Errorf("lease: read the checksum: %w", err)
	}
	if got := binary.BigEndian.Uint32(head); got != want {
		return Table{}, fmt.Errorf("lease: the checksum is %08x, not %08x: %w", got, want, ErrFormat)
	}
	return t, nil
}

func readEntry(r io.Reader, b []byte) (v VolumeID, e Entry, err error) {
	if _, err := io.ReadFull(r, b[:entryFixed]); err != nil {
		return v, e, err
	}
	copy(v[:], b)
	e.Epoch = binary.BigEndian.Uint64(b[16:])
	e.Incarnation = binary.BigEndian.Uint64(b[24:])
	owner := b[entryFixed : entryFixed+int(b[32])]
	if _, err := io.ReadFull(r, owner); err != nil {
		return v, e, err
	}
	e.Owner = string(owner)
	if e.Epoch == 0 || (e.Owner == "") != (e.Incarnation == 0) {
		return v, e, fmt.Errorf("epoch %d, owner %q, incarnation %d: %w", e.Epoch, e.Owner, e.Incarnation, ErrFormat)
	}
	return v, e, nil
}
