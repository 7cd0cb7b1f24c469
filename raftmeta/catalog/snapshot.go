package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
	"blockd.dev/raftmeta/idmap"
)

// A state as a stream:
//
//	| 8 magic | 4 length | a part: catalogpb.Snapshot | again and again ... |
//	| 4 length=0 | 32 SHA-256 of the parts' bytes |
//
// Numbers are big-endian. A part has at most partEntries entries, so that
// neither side ever holds the whole encoding. The parts' bytes one after
// another are the encoding of one Snapshot that has it all.
const (
	streamMagic = "BDCATLG1"
	partEntries = 512
	partMax     = 16 << 20
)

// Hash is equal for equal states: the SHA-256 of their parts, with the hash of
// the extent map, which is always at hand, in place of the map.
func (s *State) Hash() [32]byte {
	sum := sha256.New()
	s.records(func(part *catalogpb.Snapshot) bool {
		sum.Write(encodePart(part))
		return true
	})
	if s.Version() >= 2 {
		extents := s.extents.Hash()
		sum.Write(extents[:])
	}
	return [32]byte(sum.Sum(nil))
}

// WriteTo writes the state as a stream.
func (s *State) WriteTo(w io.Writer) (total int64, err error) {
	write := func(b []byte) {
		if err == nil {
			var n int
			n, err = w.Write(b)
			total += int64(n)
		}
	}
	sum := sha256.New()
	write([]byte(streamMagic))
	for part := range s.parts {
		b := encodePart(part)
		sum.Write(b)
		write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		write(b)
		if err != nil {
			return total, err
		}
	}
	write(make([]byte, 4))
	write(sum.Sum(nil))
	return total, err
}

// ReadState reads a stream, and checks the invariants.
func ReadState(r io.Reader) (*State, error) {
	sum := sha256.New()
	head := make([]byte, len(streamMagic))
	if _, err := io.ReadFull(r, head); err != nil || string(head) != streamMagic {
		return nil, fmt.Errorf("catalog: not a stream of a state: %q, %w", head, err)
	}
	l := loader{s: &State{}}
	if err := l.load(func() (*catalogpb.Snapshot, error) { return readPart(r, sum) }); err != nil {
		return nil, err
	}
	want := make([]byte, sha256.Size)
	if _, err := io.ReadFull(r, want); err != nil {
		return nil, fmt.Errorf("catalog: the state is cut short: %w", err)
	}
	if !bytes.Equal(want, sum.Sum(nil)) {
		return nil, fmt.Errorf("catalog: the state's checksum is wrong")
	}
	return l.finish()
}

// readPart reads the next part of a stream, nil after the last one.
func readPart(r io.Reader, sum io.Writer) (*catalogpb.Snapshot, error) {
	size := make([]byte, 4)
	if _, err := io.ReadFull(r, size); err != nil {
		return nil, fmt.Errorf("catalog: the state is cut short: %w", err)
	}
	n := binary.BigEndian.Uint32(size)
	if n == 0 {
		return nil, nil
	}
	if n > partMax {
		return nil, fmt.Errorf("catalog: a part of the state has %d bytes", n)
	}
	b := &bytes.Buffer{} // grows with what really comes
	if _, err := io.CopyN(b, r, int64(n)); err != nil {
		return nil, fmt.Errorf("catalog: the state is cut short: %w", err)
	}
	_, _ = sum.Write(b.Bytes()) // a hash has no errors
	part := &catalogpb.Snapshot{}
	if err := proto.Unmarshal(b.Bytes(), part); err != nil {
		return nil, fmt.Errorf("catalog: decode snapshot: %w", err)
	}
	return part, nil
}

// Marshal encodes the state. Equal states have equal encodings.
func (s *State) Marshal() ([]byte, error) {
	var b []byte
	for part := range s.parts {
		b = append(b, encodePart(part)...)
	}
	return b, nil
}

// Unmarshal decodes a state and checks its invariants.
func Unmarshal(b []byte) (*State, error) {
	p := &catalogpb.Snapshot{}
	if err := proto.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("catalog: decode snapshot: %w", err)
	}
	l := loader{s: &State{}}
	parts := []*catalogpb.Snapshot{p, nil}
	if err := l.load(func() (*catalogpb.Snapshot, error) {
		p, parts = parts[0], parts[1:]
		return p, nil
	}); err != nil {
		return nil, err
	}
	return l.finish()
}

func encodePart(p *catalogpb.Snapshot) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(p)
	if err != nil {
		panic("catalog: " + err.Error()) // commands have valid UTF-8 only, or were not decoded
	}
	return b
}

// parts yields the state in parts, in a fixed order.
func (s *State) parts(yield func(*catalogpb.Snapshot) bool) {
	if s.records(yield) {
		s.mapParts(yield)
	}
}

// records yields all but the extent map.
func (s *State) records(yield func(*catalogpb.Snapshot) bool) bool {
	head := &catalogpb.Snapshot{Version: s.Version(), Revision: s.Revision, Iqn: s.IQN, Nqn: s.NQN,
		ClusterId: idTo(s.ClusterID), Authority: authorityTo(s.Authority), LastNode: uint32(s.lastNode), LastDisk: uint32(s.lastDisk)}
	return yield(head) &&
		split(s.Pools, yield, func(p *catalogpb.Snapshot, e *Pool) { p.Pools = append(p.Pools, poolTo(e)) }) &&
		split(s.Volumes, yield, func(p *catalogpb.Snapshot, e *Volume) { p.Volumes = append(p.Volumes, volumeTo(e)) }) &&
		split(s.Hosts, yield, func(p *catalogpb.Snapshot, e *Host) { p.Hosts = append(p.Hosts, hostTo(e)) }) &&
		split(s.Mappings, yield, func(p *catalogpb.Snapshot, e *Mapping) { p.Mappings = append(p.Mappings, mappingTo(e)) }) &&
		split(s.Audits, yield, func(p *catalogpb.Snapshot, e *Audit) { p.Audit = append(p.Audit, auditTo(e)) }) &&
		split(s.answers, yield, func(p *catalogpb.Snapshot, e *answer) { p.Answers = append(p.Answers, answerTo(e)) }) &&
		split(s.Disks, yield, func(p *catalogpb.Snapshot, e *Disk) { p.Disks = append(p.Disks, diskTo(e)) }) &&
		split(s.Nodes, yield, func(p *catalogpb.Snapshot, e *Node) { p.Nodes = append(p.Nodes, nodeTo(e)) }) &&
		split(s.Tokens, yield, func(p *catalogpb.Snapshot, e *Token) { p.Tokens = append(p.Tokens, tokenTo(e)) }) &&
		split(s.Jobs, yield, func(p *catalogpb.Snapshot, e *Job) { p.Jobs = append(p.Jobs, jobTo(e)) }) &&
		split(s.Revoked, yield, func(p *catalogpb.Snapshot, e *Revoked) { p.Revoked = append(p.Revoked, revokedTo(e)) }) &&
		split(s.Leases(), yield, func(p *catalogpb.Snapshot, e *Lease) { p.Leases = append(p.Leases, leaseTo(e)) }) &&
		splitBy(1, s.leaseTableParts(), yield, func(p *catalogpb.Snapshot, e *string) { p.LeaseTable = append(p.LeaseTable, []byte(*e)) }) &&
		splitBy(1, values(s.reservations), yield, func(p *catalogpb.Snapshot, e *Reservation) {
			p.Reservations = append(p.Reservations, reservationTo(e))
		}) &&
		splitBy(1, s.importing, yield, func(p *catalogpb.Snapshot, e *string) { p.Importing = append(p.Importing, []byte(*e)) })
}

// values returns the values of a map by ascending identifier.
func values[T any](m idmap.Map[T]) []T {
	out := make([]T, 0, m.Len())
	for _, v := range m.All() {
		out = append(out, v)
	}
	return out
}

func split[T any](list []T, yield func(*catalogpb.Snapshot) bool, add func(*catalogpb.Snapshot, *T)) bool {
	return splitBy(partEntries, list, yield, add)
}

func splitBy[T any](size int, list []T, yield func(*catalogpb.Snapshot) bool, add func(*catalogpb.Snapshot, *T)) bool {
	for len(list) > 0 {
		n := min(size, len(list))
		p := &catalogpb.Snapshot{}
		for i := range n {
			add(p, &list[i])
		}
		if !yield(p) {
			return false
		}
		list = list[n:]
	}
	return true
}

// loader makes a state of parts.
type loader struct {
	s       *State
	parts   int
	mapped  bool   // the extent map was read: nothing may follow it
	bad     bool   // something was out of range
	unknown string // a message with a field that this blockd does not know

	leaseTable bytes.Buffer
}

// load takes all parts, which next returns, and nil after the last one.
func (l *loader) load(next func() (*catalogpb.Snapshot, error)) error {
	for {
		p, err := next()
		if err != nil {
			return err
		}
		if p == nil {
			return nil
		}
		l.add(p)
		if v := l.s.version; v == 0 || v > CommandVersion {
			return fmt.Errorf("catalog: snapshot of version %d, and this blockd knows version %d; upgrade it", v, CommandVersion)
		}
		if len(p.GetExtentMap()) > 0 {
			if err := l.readMap(p, next); err != nil {
				return fmt.Errorf("catalog: %w", err)
			}
		}
	}
}

func (l *loader) add(p *catalogpb.Snapshot) {
	l.bad = l.bad || l.mapped
	if l.parts++; l.parts == 1 {
		l.s.version, l.s.lastNode, l.s.lastDisk = p.GetVersion(), l.number(p.GetLastNode()), extmap.Disk(l.number(p.GetLastDisk()))
		l.s.Revision, l.s.ClusterID, l.s.IQN, l.s.NQN = p.GetRevision(), l.id(p.GetClusterId(), true), p.GetIqn(), p.GetNqn()
		l.s.Authority = authorityFrom(p.GetAuthority())
	}
	if name := unknownField(p.ProtoReflect()); name != "" {
		l.unknown = name
	}
	s := l.s
	for _, e := range p.GetPools() {
		s.Pools = append(s.Pools, l.pool(e))
	}
	for _, e := range p.GetVolumes() {
		s.Volumes = append(s.Volumes, l.volume(e))
	}
	for _, e := range p.GetHosts() {
		s.Hosts = append(s.Hosts, l.host(e))
	}
	for _, e := range p.GetMappings() {
		s.Mappings = append(s.Mappings, Mapping{Volume: l.id(e.GetVolumeId(), false),
			Host: l.id(e.GetHostId(), true), LUN: l.lun(e.GetLun())})
	}
	for _, e := range p.GetDisks() {
		s.Disks = append(s.Disks, l.disk(e))
	}
	l.addCluster(p)
	for _, e := range p.GetAudit() {
		s.Audits = append(s.Audits, auditFrom(e))
	}
	for _, e := range p.GetAnswers() {
		s.answers = append(s.answers, l.answer(e))
	}
	for _, e := range p.GetImporting() {
		s.importing = append(s.importing, string(e))
	}
}

func (l *loader) addCluster(p *catalogpb.Snapshot) {
	s := l.s
	for _, e := range p.GetNodes() {
		s.Nodes = append(s.Nodes, l.node(e))
	}
	for _, e := range p.GetTokens() {
		s.Tokens = append(s.Tokens, l.token(e))
	}
	for _, e := range p.GetJobs() {
		s.Jobs = append(s.Jobs, l.job(e))
	}
	for _, e := range p.GetRevoked() {
		s.Revoked = append(s.Revoked, l.revoked(e))
	}
	for _, e := range p.GetLeases() {
		l.leaseNote(e)
	}
	for _, e := range p.GetLeaseTable() {
		l.leaseTable.Write(e)
	}
	for _, e := range p.GetReservations() {
		r := l.reservation(e)
		_, twice := s.reservations.Get(r.Volume)
		l.bad = l.bad || twice
		s.reservations = s.reservations.With(r.Volume, r)
	}
}

func (l *loader) finish() (*State, error) {
	l.finishLeases()
	switch {
	case l.parts == 0:
		return nil, fmt.Errorf("catalog: the state has no parts")
	case l.unknown != "":
		return nil, fmt.Errorf("catalog: %s in the snapshot has a field that this blockd does not know; upgrade it", l.unknown)
	case l.bad:
		return nil, fmt.Errorf("catalog: snapshot holds an identifier, state, LUN, block size, protection or digest that can't be")
	}
	if n := l.s.Check(); n != 0 {
		return nil, fmt.Errorf("catalog: snapshot breaks invariant %d", n)
	}
	return l.s, nil
}

func decodeTime(nano int64) time.Time { return time.Unix(0, nano).UTC() }

func (l *loader) id(b []byte, optional bool) ID {
	if optional && len(b) == 0 {
		return ID{}
	}
	id, ok := idFrom(b)
	l.bad = l.bad || !ok
	return id
}

// number is that of a node or a disk.
func (l *loader) number(n uint32) uint16 {
	l.bad = l.bad || n > numberMax
	return uint16(n)
}

func (l *loader) lun(lun uint32) uint16 {
	l.bad = l.bad || lun > LUNMax
	return uint16(lun)
}
