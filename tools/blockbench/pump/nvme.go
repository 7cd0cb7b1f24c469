package pump

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"

	"blockd.dev/internal/adaptive"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/target/nvmetcp/pdu"
)

// Access is what a client does on a volume: requests of Bytes each at random
// places of the first Range bytes.
type Access struct {
	Write bool
	Bytes int
	Range int64
	Depth int
	Seed  uint64
}

func (a Access) validate() error {
	if a.Bytes < 4096 || a.Bytes > 1<<20 || a.Bytes%4096 != 0 || a.Range < int64(a.Bytes) || a.Range > 1<<40 {
		return fmt.Errorf("pump: requests of %d bytes in a range of %d: give a multiple of 4096 up to 1 MiB, and a range that holds one", a.Bytes, a.Range)
	}
	return nil
}

// fits checks that a write's data can go with its command, of which the target
// takes so many bytes: the client doesn't wait to be asked for data, and a target
// ends a connection that sends more.
func (a Access) fits(along int) error {
	if a.Write && a.Bytes > along {
		return fmt.Errorf("pump: writes of %d bytes: this target takes at most %d with a command, and this client sends no other; give less, or use blockbench nvme or iscsi, which wait to be asked for the data", a.Bytes, along)
	}
	return nil
}

// places picks where requests go.
type places struct {
	rnd    *rand.PCG
	n      uint64
	blocks uint64 // of the device, per request
}

func (a Access) places(blockSize int) places {
	return places{rand.NewPCG(a.Seed, 1), uint64(a.Range) / uint64(a.Bytes), uint64(a.Bytes / blockSize)}
}

func (p *places) next() uint64 { return p.rnd.Uint64() % p.n * p.blocks }

// NVMe is a Dialer of a namespace of an NVMe/TCP target, with an association of
// its own for each connection. shape is what the wire carries for one request.
func NVMe(addr, nqn string, nsid uint32, a Access) (dial Dialer, shape Shape, err error) {
	shape = Shape{Request: pdu.CapsuleCmdLen, Reply: pdu.DataLen + a.Bytes, Depth: a.Depth}
	if a.Write {
		shape = Shape{Request: pdu.CapsuleCmdLen + a.Bytes, Reply: pdu.CapsuleRespLen, Depth: a.Depth}
	}
	if err := a.validate(); err != nil {
		return nil, shape, err
	}
	return func(context.Context) (*net.TCPConn, Dialect, func(), error) {
		h, err := nvmehost.Dial(nvmehost.Config{Addr: addr, SubNQN: nqn, HostNQN: "nqn.2026-01.dev.blockd:pump",
			Depth: max(a.Depth, 32) + 1, Poll: adaptive.Config{Mode: adaptive.Interrupt}})
		if err != nil {
			return nil, nil, nil, err
		}
		n, err := h.Namespace(nsid)
		if err != nil {
			h.Close()
			return nil, nil, nil, err
		}
		if err := a.fits(h.InCapsuleBytes()); err != nil {
			h.Close()
			return nil, nil, nil, err
		}
		conn, err := h.Take(0)
		if err != nil {
			h.Close()
			return nil, nil, nil, err
		}
		a.Seed++
		return conn, newNVMeDialect(a, nsid, n.Geometry().BlockSize), h.Close, nil
	}, shape, nil
}

// nvmeDialect numbers commands by slot.
type nvmeDialect struct {
	capsule []byte // a command without CID and SLBA
	places  places
}

func newNVMeDialect(a Access, nsid uint32, blockSize int) *nvmeDialect {
	var c pdu.CapsuleCmd
	sqe := c.SQE[:]
	sqe[0], sqe[1], sqe[39] = nvme.OpRead, 0x40, 0x5a // a transport SGL
	inline := 0
	if a.Write {
		sqe[0], sqe[39] = nvme.OpWrite, 0x01 // in the capsule
		inline = a.Bytes
	}
	binary.LittleEndian.PutUint32(sqe[4:], nsid)
	binary.LittleEndian.PutUint32(sqe[32:], uint32(a.Bytes))
	binary.LittleEndian.PutUint32(sqe[48:], uint32(a.Bytes/blockSize-1))
	return &nvmeDialect{capsule: c.Append(nil, &pdu.Layout{}, inline), places: a.places(blockSize)}
}

// Aim implements Dialect. The CID and the SLBA are dwords 0 and 10 of the
// entry behind the common header.
func (d *nvmeDialect) Aim(request []byte, slot int) {
	copy(request, d.capsule)
	binary.LittleEndian.PutUint16(request[pdu.CommonLen+2:], uint16(slot))
	binary.LittleEndian.PutUint64(request[pdu.CommonLen+40:], d.places.next())
}

// HeadLen implements Dialect: both kinds of reply have as much.
func (d *nvmeDialect) HeadLen() int { return pdu.DataLen }

const _ = uint(pdu.DataLen-pdu.CapsuleRespLen) + uint(pdu.CapsuleRespLen-pdu.DataLen) // they have

// Answer implements Dialect.
func (d *nvmeDialect) Answer(head []byte) (slot, follow int, err error) {
	var h pdu.Header
	if _, err := h.Decode(head); err != nil {
		return 0, 0, err
	}
	switch h.Type {
	case pdu.TypeC2HData:
		var p pdu.Data
		if _, err := p.Decode(head); err != nil {
			return 0, 0, err
		}
		if !p.Success {
			return -1, int(p.Length), nil
		}
		return int(p.CID), int(p.Length), nil
	case pdu.TypeCapsuleResp:
		var p pdu.CapsuleResp
		if _, err := p.Decode(head); err != nil {
			return 0, 0, err
		}
		if status := binary.LittleEndian.Uint16(p.CQE[14:]) >> 1; status != 0 {
			return 0, 0, fmt.Errorf("a command failed with status %#x", status)
		}
		return int(binary.LittleEndian.Uint16(p.CQE[12:])), 0, nil
	}
	return 0, 0, fmt.Errorf("unexpected %v", h.Type)
}
