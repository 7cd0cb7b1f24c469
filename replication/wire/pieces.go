package wire

// pieceKind says what a piece is.
type pieceKind uint8

const (
	pieceData    pieceKind = iota + 1 // bytes of a message
	pieceCancel                       // that a message was given up
	pieceCredit                       // the newest credit, whatever it is then
	pieceBlocked                      // that more credit is wanted
	pieceAck                          // an acknowledgement: once it arrived, older ranges are settled
)

// piece is something in a packet that must be dealt with when the packet is
// acknowledged or lost.
type piece struct {
	kind pieceKind
	msg  *outMsg
	from uint64 // pieceData: first byte. pieceAck: largest number acknowledged
	n    int    // bytes
	next int32  // in a list
}

// pieces is the memory of all pieces; they are named by index, and 0 is none.
type pieces struct {
	slab  []piece
	spare int32 // first of a list through next
	used  int
}

func (p *pieces) take(v piece) int32 {
	p.used++
	if p.spare == 0 {
		if len(p.slab) == 0 {
			p.slab = append(p.slab, piece{})
		}
		p.slab = append(p.slab, v)
		return int32(len(p.slab) - 1)
	}
	i := p.spare
	p.spare = p.slab[i].next
	v.next = 0
	p.slab[i] = v
	return i
}

func (p *pieces) drop(i int32) {
	p.used--
	p.slab[i] = piece{next: p.spare}
	p.spare = i
}

// pieceList is a queue of pieces.
type pieceList struct{ head, tail int32 }

func (c *Conn) pushPiece(l *pieceList, i int32) {
	c.pieces.slab[i].next = 0
	if l.tail == 0 {
		l.head = i
	} else {
		c.pieces.slab[l.tail].next = i
	}
	l.tail = i
}

func (c *Conn) popPiece(l *pieceList) int32 {
	i := l.head
	if l.head = c.pieces.slab[i].next; l.head == 0 {
		l.tail = 0
	}
	return i
}

// queuePiece puts v into the queue of what is to be sent.
func (c *Conn) queuePiece(v piece) {
	i := c.pieces.take(v)
	if v.msg != nil {
		v.msg.refs++
	}
	c.pushPiece(&c.out.resend, i)
}

// dropPiece frees piece i, and its message if it was the last.
func (c *Conn) dropPiece(i int32) {
	m := c.pieces.slab[i].msg
	c.pieces.drop(i)
	if m != nil {
		m.refs--
		c.letGo(m)
	}
}

// piecesArrived deals with the pieces of an acknowledged packet.
func (c *Conn) piecesArrived(i int32) {
	for i != 0 {
		p := c.pieces.slab[i]
		switch p.kind {
		case pieceData:
			c.pieceAcked(p.msg, p.n)
		case pieceCancel:
			p.msg.canceling = false
		case pieceAck:
			c.acks.settle(p.from)
		case pieceCredit, pieceBlocked:
		}
		c.dropPiece(i)
		i = p.next
	}
}

// piecesLost puts the pieces of a lost packet where they are sent again.
func (c *Conn) piecesLost(i int32) {
	for i != 0 {
		p := c.pieces.slab[i]
		switch {
		case p.kind == pieceAck, p.kind == pieceData && p.msg.settled:
			c.dropPiece(i)
		case p.kind == pieceCredit:
			c.in.tell = true
			c.dropPiece(i)
		case p.kind == pieceBlocked:
			c.out.toldBlocked.Messages = ^uint64(0) // any credit is news again
			c.dropPiece(i)
		default:
			c.pushPiece(&c.out.resend, i)
		}
		i = p.next
	}
}
