package message

import (
	"encoding/binary"
	"fmt"

	"blockd.dev/replication/replica"
)

// Target names a replica: the part of a volume that one disk keeps.
type Target struct {
	Volume [16]byte
	Disk   uint16 // the cluster's number of the disk
}

const (
	requestFixed  = 16 + 2 + 1 + 4 + 11*8
	responseFixed = 1 + 3*4 + 5*8
	versionBytes  = 16
	entryBytes    = 32
	offsetBytes   = 8
)

// AppendRequest appends what follows q.Data in a message. A Fence has no versions;
// what it has, the ranges that arrive, is in their place.
func AppendRequest(dst []byte, t Target, q *replica.Request) []byte {
	be := binary.BigEndian
	list := len(q.Vers) + len(q.Arriving)
	dst = appendVersions(dst, q.Vers)
	for _, a := range q.Arriving {
		dst = be.AppendUint64(dst, uint64(a.Off))
		dst = be.AppendUint64(dst, uint64(a.Len))
	}
	dst = append(dst, t.Volume[:]...)
	dst = be.AppendUint16(dst, t.Disk)
	dst = append(dst, uint8(q.Kind))
	dst = be.AppendUint32(dst, uint32(list))
	for _, v := range [...]uint64{q.ID, q.Oldest, q.Epoch, q.Session, q.Boot, q.Stable, q.Gen, uint64(q.Off), uint64(q.Len), q.Ver.Epoch, q.Ver.Seq} {
		dst = be.AppendUint64(dst, v)
	}
	return seal(dst, ReplicaRequest)
}

// DecodeRequest sets q to what a message says. q.Data aliases it.
func DecodeRequest(m []byte, q *replica.Request) (t Target, err error) {
	m, r, err := open(m, ReplicaRequest, requestFixed)
	if err != nil {
		return t, err
	}
	copy(t.Volume[:], r)
	r = r[len(t.Volume):]
	t.Disk = r.u16()
	*q = replica.Request{Kind: replica.Kind(r.u8())}
	n := r.u32()
	q.ID, q.Oldest, q.Epoch, q.Session, q.Boot, q.Stable, q.Gen = r.u64(), r.u64(), r.u64(), r.u64(), r.u64(), r.u64(), r.u64()
	q.Off, q.Len = r.i64(), r.i64()
	q.Ver = replica.Version{Epoch: r.u64(), Seq: r.u64()}
	q.Data, q.Vers, err = cutVersions(m, n)
	if q.Kind == replica.Fence {
		for _, v := range q.Vers {
			q.Arriving = append(q.Arriving, replica.Range{Off: int64(v.Epoch), Len: int64(v.Seq)})
		}
		q.Vers = nil
	}
	if q.Kind == replica.Read && q.Len > DataMax || q.Kind == replica.Versions && q.Len > versionsMax {
		return t, fmt.Errorf("%w: kind %d of %d bytes at %d", ErrMalformed, q.Kind, q.Len, q.Off)
	}
	return t, err
}

// versionsMax is the longest range, in bytes, of which versions are told: many times what owners ask for.
const versionsMax = 1 << 30

// What a replica says of itself after a Fence is the second number of Differ in a message, of which
// owners of older versions read the first one only, and which replicas of older versions leave out.
const (
	proofVouches  = 1
	proofUnproven = 2
)

// lastHosts is Response.Hosts in the number that says how long the node had the request: no time is
// that long, and owners of older versions leave out what can't be.
const lastHosts = 1 << 63

// AppendResponse appends what follows resp.Data in the answer to a request of the given kind.
func AppendResponse(dst []byte, kind replica.Kind, resp *replica.Response) []byte {
	be := binary.BigEndian
	dst = appendVersions(dst, resp.Vers)
	for _, off := range resp.Differ {
		dst = be.AppendUint64(dst, uint64(off))
	}
	differ := len(resp.Differ)
	if kind == replica.Fence && resp.Vouches {
		for ; differ < 1; differ++ {
			dst = be.AppendUint64(dst, 0)
		}
		proof := uint64(proofVouches)
		if resp.Unproven {
			proof |= proofUnproven
		}
		dst = be.AppendUint64(dst, proof)
		differ++
	}
	for _, e := range resp.Tail {
		for _, v := range [...]uint64{e.Ver.Epoch, e.Ver.Seq, uint64(e.Off), uint64(e.Len)} {
			dst = be.AppendUint64(dst, v)
		}
	}
	dst = append(dst, uint8(resp.Status))
	for _, n := range [...]int{len(resp.Vers), differ, len(resp.Tail)} {
		dst = be.AppendUint32(dst, uint32(n))
	}
	last := resp.Last
	if kind != replica.Fence && resp.Hosts {
		last |= lastHosts
	}
	for _, v := range [...]uint64{resp.ID, resp.Epoch, resp.Boot, resp.Stable, last} {
		dst = be.AppendUint64(dst, v)
	}
	return seal(dst, ReplicaResponse)
}

// DecodeResponse sets resp to what the answer to a request of the given kind says. resp.Data aliases it.
func DecodeResponse(m []byte, kind replica.Kind, resp *replica.Response) error {
	m, r, err := open(m, ReplicaResponse, responseFixed)
	if err != nil {
		return err
	}
	*resp = replica.Response{Status: replica.Status(r.u8())}
	vers, differ, tail := r.u32(), r.u32(), r.u32()
	resp.ID, resp.Epoch, resp.Boot, resp.Stable, resp.Last = r.u64(), r.u64(), r.u64(), r.u64(), r.u64()
	if kind != replica.Fence {
		resp.Hosts, resp.Last = resp.Last&lastHosts != 0, resp.Last&^lastHosts
	}
	m, list, err := cut(m, tail, entryBytes)
	if err != nil {
		return err
	}
	for f := reader(list); len(f) > 0; {
		resp.Tail = append(resp.Tail, replica.Entry{Ver: replica.Version{Epoch: f.u64(), Seq: f.u64()}, Off: f.i64(), Len: f.i64()})
	}
	m, list, err = cut(m, differ, offsetBytes)
	if err != nil {
		return err
	}
	for f := reader(list); len(f) > 0; {
		resp.Differ = append(resp.Differ, f.i64())
	}
	if kind == replica.Fence && len(resp.Differ) > 1 {
		proof := resp.Differ[1]
		resp.Vouches, resp.Unproven = proof&proofVouches != 0, proof&proofVouches != 0 && proof&proofUnproven != 0
		resp.Differ = resp.Differ[:1]
	}
	resp.Data, resp.Vers, err = cutVersions(m, vers)
	return err
}

func appendVersions(dst []byte, vers []replica.Version) []byte {
	for _, v := range vers {
		dst = binary.BigEndian.AppendUint64(dst, v.Epoch)
		dst = binary.BigEndian.AppendUint64(dst, v.Seq)
	}
	return dst
}

func cutVersions(m []byte, n uint32) (rest []byte, vers []replica.Version, err error) {
	rest, list, err := cut(m, n, versionBytes)
	if err != nil || n == 0 {
		return rest, nil, err
	}
	vers = make([]replica.Version, 0, n)
	for f := reader(list); len(f) > 0; {
		vers = append(vers, replica.Version{Epoch: f.u64(), Seq: f.u64()})
	}
	return rest, vers, nil
}
