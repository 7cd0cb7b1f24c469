package nvmetcp

import (
	"blockd.dev/blockdev/arena"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp/pdu"
)

// commandDone is the Done of every command.
func commandDone(nv *nvme.Command) {
	cmd := nv.Owner.(*command)
	cmd.conn.complete(cmd)
}

// complete queues a command's response. Any goroutine may call it.
func (c *conn) complete(cmd *command) {
	nv := &cmd.nv
	if nv.Status == nvme.Unanswered {
		cmd.recycle()
		return
	}
	sent := 0
	if nv.Status.OK() && nv.Dir == nvme.DirIn {
		sent = nv.InLen
	}
	leaves := nv.SQE[0] == nvme.OpFabrics && nv.SQE[4] == nvme.FabricsDisconnect && nv.Status.OK()
	if c.noSQHD {
		c.respond(cmd, sent, noSQHD)
	} else {
		c.order.Lock()
		c.respond(cmd, sent, uint16(c.sqhd.Load()))
		c.order.Unlock()
	}
	if sent == 0 {
		cmd.recycle()
	}
	c.sock.Flush()
	if leaves {
		go c.leave()
	}
}

// leave ends the connection when the response to Disconnect is out, or nobody
// takes it.
func (c *conn) leave() {
	_ = c.sock.Drain() // ends when the connection does
	c.drop(errDisconnect)
}

// respond queues the data and the response as one unit; with data the output
// has the command from then on, and gives it back. A C2HData with the
// SUCCESS flag stands for a response that says nothing else (§3.3.2.1), which
// takes SQ flow control being off, or there would be an SQHD to tell.
func (c *conn) respond(cmd *command, sent int, sqhd uint16) {
	nv := &cmd.nv
	if sent == 0 {
		head := c.appendResp(cmd.head[:0], nv, sqhd)
		c.sock.Append(head, nil, nil, nil)
		return
	}
	d := pdu.Data{CID: nv.CID(), Last: true, Length: uint32(sent)}
	d.Success = c.noSQHD && nv.Status == nvme.Success && nv.Result == 0
	head := d.Append(cmd.head[:0], &c.layout)
	segs := nv.Segments()
	if sent < nv.Length {
		cmd.segs = arena.Slice(segs, 0, sent, cmd.segs[:0])
		segs = cmd.segs
	}
	tail := cmd.tail[:0]
	if c.layout.DataDigest {
		var crc uint32
		for _, s := range segs {
			crc = pdu.Digest(crc, s)
		}
		tail = pdu.AppendDigest(tail, crc)
	}
	if !d.Success {
		tail = c.appendResp(tail, nv, sqhd)
	}
	c.sock.Append(head, segs, tail, cmd)
}

// appendResp writes the response capsule of a command.
func (c *conn) appendResp(dst []byte, nv *nvme.Command, sqhd uint16) []byte {
	var r pdu.CapsuleResp
	appendCQE(r.CQE[:0], nv.Result, sqhd, nv.CID(), nv.Status)
	return r.Append(dst, &c.layout)
}
