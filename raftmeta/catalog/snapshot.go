package catalog

import (
	"crypto/sha256"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"blockd.dev/raftmeta/catalog/catalogpb"
)

// snapshotVersion is the format of catalogpb.Snapshot. A higher one was
// written by a newer blockd.
const snapshotVersion = 1

// Hash is equal for equal states.
func (s *State) Hash() ([32]byte, error) {
	b, err := s.Marshal()
	if err != nil {
		return [32]byte{}, err
	}
	return sha256.Sum256(b), nil
}

// Marshal encodes the state. Equal states have equal encodings.
func (s *State) Marshal() ([]byte, error) {
	p := &catalogpb.Snapshot{Version: snapshotVersion, Revision: s.Revision, Iqn: s.IQN, Nqn: s.NQN}
	if !s.ClusterID.IsZero() {
		p.ClusterId = s.ClusterID[:]
	}
	for i := range s.Pools {
		e := &s.Pools[i]
		p.Pools = append(p.Pools, &catalogpb.Pool{Id: e.ID[:], Name: e.Name, Replicas: e.Replicas,
			Media: string(e.Media), CreatedUnixNano: e.Created.UnixNano()})
	}
	for i := range s.Volumes {
		e := &s.Volumes[i]
		p.Volumes = append(p.Volumes, &catalogpb.Volume{Id: e.ID[:], Name: e.Name, SizeBytes: e.SizeBytes,
			BlockSize: int32(e.BlockSize), Lun: uint32(e.LUN), Pool: e.Pool, Retired: e.Retired,
			CreatedUnixNano: e.Created.UnixNano(), Protection: string(e.Protection)})
	}
	for i := range s.Hosts {
		e := &s.Hosts[i]
		p.Hosts = append(p.Hosts, &catalogpb.Host{Id: e.ID[:], Name: e.Name, Iqn: e.IQN, Nqn: e.NQN,
			Chap: chapTo(e.Chap), MutualChap: chapTo(e.Mutual), Dhchap: dhchapTo(e.DHChap), CreatedUnixNano: e.Created.UnixNano()})
	}
	for i := range s.Mappings {
		e := &s.Mappings[i]
		m := &catalogpb.Mapping{VolumeId: e.Volume[:], Lun: uint32(e.LUN)}
		if !e.Host.IsZero() {
			m.HostId = e.Host[:]
		}
		p.Mappings = append(p.Mappings, m)
	}
	for i := range s.Disks {
		e := &s.Disks[i]
		p.Disks = append(p.Disks, &catalogpb.Disk{Id: e.ID[:], Path: e.Path, CreatedUnixNano: e.Created.UnixNano()})
	}
	for i := range s.Audits {
		e := &s.Audits[i]
		p.Audit = append(p.Audit, &catalogpb.Audit{Revision: e.Revision, TimeUnixNano: e.Time.UnixNano(),
			Actor: e.Actor, Action: e.Action, Subject: e.Subject, Detail: e.Detail})
	}
	for i := range s.answers {
		e := &s.answers[i]
		a := &catalogpb.Answer{RequestId: e.requestID, Digest: e.digest[:], Revision: e.revision}
		if !e.id.IsZero() {
			a.Id = e.id[:]
		}
		p.Answers = append(p.Answers, a)
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("catalog: encode snapshot: %w", err)
	}
	return b, nil
}

func dhchapTo(c DHChap) *catalogpb.DhChap {
	if c.IsZero() {
		return nil
	}
	return &catalogpb.DhChap{Key: c.Key, ControllerKey: c.ControllerKey}
}

func chapTo(c Chap) *catalogpb.Chap {
	if c.IsZero() {
		return nil
	}
	return &catalogpb.Chap{User: c.User, Secret: c.Secret}
}

// Unmarshal decodes a state and checks its invariants.
func Unmarshal(b []byte) (*State, error) {
	p := &catalogpb.Snapshot{}
	if err := proto.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("catalog: decode snapshot: %w", err)
	}
	if p.GetVersion() != snapshotVersion {
		return nil, fmt.Errorf("catalog: snapshot of version %d, and this blockd knows version %d", p.GetVersion(), snapshotVersion)
	}
	d := decoder{}
	s := &State{Revision: p.GetRevision(), ClusterID: d.id(p.GetClusterId(), true), IQN: p.GetIqn(), NQN: p.GetNqn()}
	for _, e := range p.GetPools() {
		s.Pools = append(s.Pools, Pool{ID: d.id(e.GetId(), false), Name: e.GetName(), Replicas: e.GetReplicas(),
			Media: Media(e.GetMedia()), Created: decodeTime(e.GetCreatedUnixNano())})
	}
	for _, e := range p.GetVolumes() {
		d.bad = d.bad || e.GetBlockSize() != 512 && e.GetBlockSize() != 4096 || !Protection(e.GetProtection()).valid()
		s.Volumes = append(s.Volumes, Volume{ID: d.id(e.GetId(), false), Name: e.GetName(), SizeBytes: e.GetSizeBytes(),
			BlockSize: int(e.GetBlockSize()), LUN: d.lun(e.GetLun()), Pool: e.GetPool(), Retired: e.GetRetired(),
			Created: decodeTime(e.GetCreatedUnixNano()), Protection: Protection(e.GetProtection())})
	}
	for _, e := range p.GetHosts() {
		s.Hosts = append(s.Hosts, Host{ID: d.id(e.GetId(), false), Name: e.GetName(), IQN: e.GetIqn(), NQN: e.GetNqn(),
			Chap: chapFrom(e.GetChap()), Mutual: chapFrom(e.GetMutualChap()), DHChap: dhchapFrom(e.GetDhchap()), Created: decodeTime(e.GetCreatedUnixNano())})
	}
	for _, e := range p.GetMappings() {
		s.Mappings = append(s.Mappings, Mapping{Volume: d.id(e.GetVolumeId(), false),
			Host: d.id(e.GetHostId(), true), LUN: d.lun(e.GetLun())})
	}
	for _, e := range p.GetDisks() {
		s.Disks = append(s.Disks, Disk{ID: d.id(e.GetId(), false), Path: e.GetPath(), Created: decodeTime(e.GetCreatedUnixNano())})
	}
	for _, e := range p.GetAudit() {
		s.Audits = append(s.Audits, Audit{Revision: e.GetRevision(), Time: decodeTime(e.GetTimeUnixNano()),
			Actor: e.GetActor(), Action: e.GetAction(), Subject: e.GetSubject(), Detail: e.GetDetail()})
	}
	for _, e := range p.GetAnswers() {
		a := answer{requestID: e.GetRequestId(), revision: e.GetRevision(), id: d.id(e.GetId(), true)}
		d.bad = d.bad || copy(a.digest[:], e.GetDigest()) != len(a.digest) || len(e.GetDigest()) != len(a.digest)
		s.answers = append(s.answers, a)
	}
	if d.bad {
		return nil, fmt.Errorf("catalog: snapshot holds an identifier, LUN, block size, protection or digest that can't be")
	}
	if n := s.Check(); n != 0 {
		return nil, fmt.Errorf("catalog: snapshot breaks invariant %d", n)
	}
	return s, nil
}

func decodeTime(nano int64) time.Time { return time.Unix(0, nano).UTC() }

// decoder remembers whether anything was out of range.
type decoder struct{ bad bool }

func (d *decoder) id(b []byte, optional bool) ID {
	if optional && len(b) == 0 {
		return ID{}
	}
	id, ok := idFrom(b)
	d.bad = d.bad || !ok
	return id
}

func (d *decoder) lun(lun uint32) uint16 {
	d.bad = d.bad || lun > LUNMax
	return uint16(lun)
}
