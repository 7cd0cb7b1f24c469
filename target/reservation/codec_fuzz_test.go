package reservation

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"
)

// samples are states of every shape.
func samples(t testing.TB) []*State {
	t.Helper()
	out := []*State{empty, {Persist: true}, {Legacy: party("A"), Generation: 7}}
	for _, typ := range nvmeTypes[1:] {
		s := empty
		for i, id := range []Identity{party("A"), party("A2"), party("n")} {
			s, _ = s.Apply(&Command{Op: OpRegisterIgnore, From: id, NewKey: uint64(i) + 0xfffffffffffffff0, Persist: PersistOn})
		}
		s, res := s.Apply(&Command{Op: OpReserve, From: party("A2"), Key: 0xfffffffffffffff1, Type: typ})
		if res.Status != StatusOK {
			t.Fatal(res.Status)
		}
		out = append(out, s)
	}
	return out
}

// FuzzDecodeState: whatever is accepted satisfies the invariants and encodes
// to the very same bytes.
func FuzzDecodeState(f *testing.F) {
	for _, s := range samples(f) {
		b, err := s.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := DecodeState(b)
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		if n := s.Check(); n != 0 {
			t.Fatalf("accepted a state that breaks invariant %d", n)
		}
		again, err := s.AppendBinary(nil)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%x encodes to %x (%v)", b, again, err)
		}
	})
}

// FuzzDecodeFile is FuzzDecodeState behind the frame of a file. The checksum is
// made right, or the fuzzer would see nothing else.
func FuzzDecodeFile(f *testing.F) {
	id := VolumeID{1}
	for _, s := range samples(f) {
		if b, err := encodeFile(s, id); err != nil {
			f.Fatal(err)
		} else if b != nil {
			f.Add(b[:len(b)-4])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
		s, err := decodeFile(b, id)
		if err == nil && s.Check() != 0 {
			t.Fatal("accepted a broken state")
		}
	})
}

// TestDamagedFilesAreRefused: every truncation and every flipped bit of a
// file is noticed, and so is a file of another volume.
func TestDamagedFilesAreRefused(t *testing.T) {
	id := VolumeID{1, 2, 3}
	for _, s := range samples(t) {
		b, err := encodeFile(s, id)
		if err != nil {
			t.Fatal(err)
		}
		if b == nil {
			continue
		}
		if back, err := decodeFile(b, id); err != nil || !back.Equal(s.AfterPowerLoss()) {
			t.Fatalf("the whole file: %v", err)
		}
		for n := range b {
			if _, err := decodeFile(b[:n], id); !errors.Is(err, ErrDamaged) {
				t.Fatalf("cut to %d bytes: %v", n, err)
			}
		}
		for bit := range 8 * len(b) {
			c := bytes.Clone(b)
			c[bit/8] ^= 1 << (bit % 8)
			if _, err := decodeFile(c, id); !errors.Is(err, ErrDamaged) {
				t.Fatalf("bit %d flipped: %v", bit, err)
			}
		}
		if _, err := decodeFile(b, VolumeID{9}); !errors.Is(err, ErrDamaged) {
			t.Fatalf("another volume's file: %v", err)
		}
	}
}

// TestGoldenEncoding pins version 1 of the encoding.
func TestGoldenEncoding(t *testing.T) {
	s := &State{
		Generation: 0x01020304, Persist: true, Type: TypeExclusiveAccess, Holder: ISCSI("iqn.a", [6]byte{0x80, 1, 2, 3, 4, 5}, 2),
		Registrants: []Registrant{{ID: NVMe("nqn.b", [16]byte{15: 9}), Key: 1}, {ID: ISCSI("iqn.a", [6]byte{0x80, 1, 2, 3, 4, 5}, 2), Key: 0xaabb}},
	}
	want := []byte("\x01\x01\x03\x00\x01\x02\x03\x04\x00\x00\x00\x01\x00\x00\x00\x02" +
		"\x00\x00\x00\x00\x00\x00\x00\x01\x02\x05\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09nqn.b" +
		"\x00\x00\x00\x00\x00\x00\xaa\xbb\x01\x05\x00\x02\x80\x01\x02\x03\x04\x05" +
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00iqn.a")
	got, err := s.AppendBinary(nil)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("got  %x (%v)\nwant %x", got, err, want)
	}
}
