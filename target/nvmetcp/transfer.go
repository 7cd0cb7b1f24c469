package nvmetcp

import (
	"encoding/binary"

	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp/pdu"
)

// transfer follows the data that one R2T asked for: all of a command's data,
// in order. It decides; the connection receives the bytes.
type transfer struct {
	next int // offset of the next byte to come
	want int // bytes in all
}

// data takes the header of an H2CData for this command (§3.3.2.2). Its
// payload goes to offset next of before. When done is true nothing more comes.
func (t *transfer) data(d *pdu.Data) (done bool, err *pdu.FatalError) {
	if uint64(d.Offset) != uint64(t.next) || uint64(d.Length) > uint64(t.want-t.next) {
		return false, pdu.Fatal(pdu.TransferRange, 0)
	}
	t.next += int(d.Length)
	done = t.next == t.want
	if d.Last != done {
		return false, pdu.Fatal(pdu.InvalidHeaderField, 1)
	}
	return done, nil
}

// submission follows a submission queue: how far its entries were taken, which
// is what completions tell the host (NVMe Base 2.0 §3.3.1.2).
type submission struct {
	size uint32 // entries; 0 before Connect
	head uint32
}

// take counts one entry as fetched.
func (s *submission) take() {
	if s.head++; s.head >= s.size {
		s.head = 0
	}
}

// noSQHD stands in a Connect response for the agreement that completions carry
// no SQHD (NVMe Base 2.0 §6.3).
const noSQHD = 0xffff

// appendCQE writes a completion queue entry (NVMe Base 2.0 §3.3.3.2). The SQ
// identifier and the phase tag are not used in fabrics.
func appendCQE(dst []byte, result uint64, sqhd, cid uint16, s nvme.Status) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, result)
	dst = binary.LittleEndian.AppendUint16(dst, sqhd)
	dst = append(dst, 0, 0)
	dst = binary.LittleEndian.AppendUint16(dst, cid)
	return binary.LittleEndian.AppendUint16(dst, uint16(s)<<1)
}
