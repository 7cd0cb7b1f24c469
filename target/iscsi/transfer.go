package iscsi

import (
	"blockd.dev/target/iscsi/pdu"
)

// transfer follows the write data of one command: the immediate data, the
// unsolicited sequence, then one sequence per R2T. Data comes in order
// (DataPDUInOrder and DataSequenceInOrder are Yes). It decides; the connection
// sends the R2Ts and receives the bytes.
type transfer struct {
	edtl  int // what the initiator expects to send, in bytes
	want  int // what the command takes of it
	next  int // offset of the next byte to come
	burst int // MaxBurstLength

	unsolicited bool // unsolicited Data-Out is still to come
	unsolEnd    int  // where it must end at the latest

	base    int    // offset of the first R2T
	asked   int    // offset behind the last R2T sent
	r2tSN   uint32 // of the next R2T
	seq     uint32 // R2TSN of the sequence that is coming in
	dataSN  uint32 // next in this sequence
	awaited int    // sequences that have not seen their F bit
	tag     uint32 // upper half of the target transfer tags
	problem problem
}

// problem is why the data of a command can't be used.
type problem uint8

const (
	problemNone        problem = iota
	problemUnsolicited         // unsolicited data that was not allowed
	problemAmount              // more or less than was asked for
	problemLost                // a PDU is missing: DataSN or offset jump, bad digest
)

// sense is the additional sense code for each problem (RFC 7143 §11.4.7.2).
func (p problem) sense() (asc, ascq byte) {
	switch p {
	case problemUnsolicited:
		return 0x0c, 0x0c
	case problemAmount:
		return 0x0c, 0x0d
	}
	return 0x47, 0x05
}

// begin starts with a command that has n bytes of immediate data.
func (t *transfer) begin(p *Params, c *pdu.SCSICommand, want int, tag uint32) {
	*t = transfer{edtl: int(c.Expected), want: want, burst: p.MaxBurst, tag: tag << 16}
	t.unsolEnd = min(p.FirstBurst, t.edtl)
	switch {
	case c.DataLen > 0 && !p.ImmediateData:
		t.problem = problemUnsolicited
	case c.DataLen > t.unsolEnd:
		t.problem = problemAmount
	}
	t.next = c.DataLen
	if !c.Final {
		t.unsolicited = true
		t.awaited = 1
		if p.InitialR2T && t.problem == problemNone {
			t.problem = problemUnsolicited
		}
	}
	t.settle()
}

// settle notes that unsolicited data has ended.
func (t *transfer) settle() {
	if !t.unsolicited {
		t.base = t.next
		t.asked = t.next
	}
}

// ready reports whether the transfer is over: all data is there, or its
// problem can be reported.
func (t *transfer) ready() bool {
	if t.problem != problemNone {
		return t.awaited == 0
	}
	return !t.unsolicited && t.next >= t.want
}

// r2t returns the next R2T to send: which sequence, from where, how many
// bytes. limit is MaxOutstandingR2T.
func (t *transfer) r2t(limit int) (sn, ttt uint32, off, n int, ok bool) {
	if t.unsolicited || t.problem != problemNone || t.asked >= t.want || t.awaited >= limit {
		return 0, 0, 0, 0, false
	}
	sn, off = t.r2tSN, t.asked
	n = min(t.burst, t.want-off)
	t.asked += n
	t.r2tSN++
	t.awaited++
	return sn, t.tag | sn&0xffff, off, n, true
}

// dataOut takes the header of a Data-Out. It reports whether its data is to be
// kept at its offset; when not, it is to be thrown away. A PDU that belongs to
// no sequence of this command is not counted: known is false.
func (t *transfer) dataOut(d *pdu.DataOut) (keep, known bool) {
	var end int
	if t.unsolicited {
		if d.TTT != pdu.NoTag {
			return false, false
		}
		end = t.unsolEnd
	} else {
		if d.TTT&^0xffff != t.tag || t.awaited == 0 {
			return false, false
		}
		if d.TTT&0xffff != t.seq&0xffff && t.problem == problemNone {
			t.problem = problemLost
		}
		end = min(t.want, t.base+(int(t.seq)+1)*t.burst)
	}
	if t.problem == problemNone {
		switch {
		case d.DataSN != t.dataSN || int(d.Offset) != t.next:
			t.problem = problemLost
		case d.DataLen > end-t.next:
			t.problem = problemAmount
		case d.Final && !t.unsolicited && t.next+d.DataLen != end:
			t.problem = problemAmount
		}
	}
	keep = t.problem == problemNone
	if keep {
		t.next += d.DataLen
		t.dataSN++
		if !d.Final && !t.unsolicited && t.next == end {
			t.problem = problemAmount // the last one must carry the F bit
			t.awaited--
			return true, true
		}
	}
	if d.Final {
		t.awaited--
		t.dataSN = 0
		if t.unsolicited {
			t.unsolicited = false
			t.settle()
		} else {
			t.seq++
		}
	}
	return keep, true
}

// lost notes that data which dataOut let in did not pass its digest.
func (t *transfer) lost() {
	if t.problem == problemNone {
		t.problem = problemLost
	}
}
