package pump

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"

	"blockd.dev/internal/adaptive"
	"blockd.dev/target/iscsi/pdu"
	"blockd.dev/tools/blockbench/iscsihost"
)

// ISCSI is a Dialer of a logical unit, with a session of its own for each
// connection. shape is what the wire carries for one request.
func ISCSI(cfg iscsihost.Config, a Access) (dial Dialer, shape Shape, err error) {
	shape = Shape{Request: pdu.BHSLen, Reply: pdu.BHSLen + a.Bytes, Depth: a.Depth}
	if a.Write {
		shape = Shape{Request: pdu.BHSLen + a.Bytes, Reply: pdu.BHSLen, Depth: a.Depth}
	}
	if err := a.validate(); err != nil {
		return nil, shape, err
	}
	cfg.Poll.Mode = adaptive.Interrupt
	return func(ctx context.Context) (*net.TCPConn, Dialect, func(), error) {
		a.Seed++
		cfg := cfg
		cfg.Initiator = fmt.Sprintf("%s-%d", iscsihost.DefaultInitiator, a.Seed)
		s, err := iscsihost.Dial(ctx, cfg)
		if err != nil {
			return nil, nil, nil, err
		}
		end := func() { _ = s.Close() } // the measurement is over
		raw, err := s.Take()
		if err != nil {
			end()
			return nil, nil, nil, err
		}
		if err := a.fits(raw.ImmediateBytes); err != nil {
			end()
			return nil, nil, nil, err
		}
		return raw.Conn, newISCSIDialect(a, raw, s.Geometry().BlockSize), end, nil
	}, shape, nil
}

// iscsiDialect numbers tasks by slot. It relies on the target's command window
// being as deep as the client's slots: a window that closes fails the client.
type iscsiDialect struct {
	command   []byte // without tag, CmdSN, ExpStatSN and address
	places    places
	cmdSN     uint32 // of the next command
	expStatSN uint32
}

func newISCSIDialect(a Access, raw iscsihost.Raw, blockSize int) *iscsiDialect {
	c := pdu.SCSICommand{Final: true, Read: !a.Write, Write: a.Write, Attr: 1, LUN: raw.LUN, Expected: uint32(a.Bytes), CDBLen: 16}
	const read16, write16 = 0x88, 0x8a
	c.CDB[0] = read16
	if a.Write {
		c.CDB[0], c.DataLen = write16, a.Bytes
	}
	binary.BigEndian.PutUint32(c.CDB[10:], uint32(a.Bytes/blockSize))
	return &iscsiDialect{command: c.Append(nil), places: a.places(blockSize), cmdSN: raw.CmdSN, expStatSN: raw.ExpStatSN}
}

// Aim implements Dialect (RFC 7143 §11.3; the CDB begins at byte 32).
func (d *iscsiDialect) Aim(request []byte, slot int) {
	copy(request, d.command)
	binary.BigEndian.PutUint32(request[16:], uint32(slot))
	binary.BigEndian.PutUint32(request[24:], d.cmdSN)
	binary.BigEndian.PutUint32(request[28:], d.expStatSN)
	binary.BigEndian.PutUint64(request[34:], d.places.next())
	d.cmdSN++
}

// HeadLen implements Dialect.
func (d *iscsiDialect) HeadLen() int { return pdu.BHSLen }

// Answer implements Dialect.
func (d *iscsiDialect) Answer(head []byte) (slot, follow int, err error) {
	var h pdu.Header
	if _, err := h.Decode(head); err != nil {
		return 0, 0, err
	}
	var status uint8
	var itt, statSN, maxCmdSN uint32
	switch h.Opcode {
	case pdu.OpDataIn:
		var p pdu.DataIn
		if _, err := p.Decode(head); err != nil {
			return 0, 0, err
		}
		if !p.HasStatus {
			return -1, p.DataLen + pdu.Pad(p.DataLen), nil
		}
		status, itt, statSN, maxCmdSN = p.Status, p.ITT, p.StatSN, p.MaxCmdSN
	case pdu.OpSCSIResponse:
		var p pdu.SCSIResponse
		if _, err := p.Decode(head); err != nil {
			return 0, 0, err
		}
		status, itt, statSN, maxCmdSN = p.Status, p.ITT, p.StatSN, p.MaxCmdSN
	default:
		return 0, 0, fmt.Errorf("unexpected %v", h.Opcode)
	}
	switch {
	case status != 0:
		return 0, 0, fmt.Errorf("a command failed with status %#x", status)
	case int32(d.cmdSN-maxCmdSN) > 0:
		return 0, 0, fmt.Errorf("the target's command window is closed at %d: use a smaller depth", maxCmdSN)
	}
	d.expStatSN = statSN + 1
	return int(itt), h.DataLen + pdu.Pad(h.DataLen), nil
}
