package catalog

import "blockd.dev/raftmeta/catalog/catalogpb"

// The encodings of the entries that have no file of their own: xTo encodes, and
// the loader decodes and remembers when something is out of range.

func volumeTo(e *Volume) *catalogpb.Volume {
	return &catalogpb.Volume{Id: e.ID[:], Name: e.Name, SizeBytes: e.SizeBytes,
		BlockSize: int32(e.BlockSize), Lun: uint32(e.LUN), Pool: e.Pool, Retired: e.Retired, Home: idTo(e.Home),
		CreatedUnixNano: e.Created.UnixNano(), Protection: string(e.Protection), ReplacedIn: e.ReplacedIn, MovedIn: e.MovedIn,
		Limits: limitsTo(e.Limits)}
}

func (l *loader) volume(e *catalogpb.Volume) Volume {
	l.bad = l.bad || e.GetBlockSize() != 512 && e.GetBlockSize() != 4096 || !Protection(e.GetProtection()).valid()
	return Volume{ID: l.id(e.GetId(), false), Name: e.GetName(), SizeBytes: e.GetSizeBytes(),
		BlockSize: int(e.GetBlockSize()), LUN: l.lun(e.GetLun()), Pool: e.GetPool(), Retired: e.GetRetired(), Home: l.id(e.GetHome(), true),
		Created: decodeTime(e.GetCreatedUnixNano()), Protection: Protection(e.GetProtection()),
		ReplacedIn: e.GetReplacedIn(), MovedIn: e.GetMovedIn(), Limits: l.limits(e.GetLimits())}
}

func hostTo(e *Host) *catalogpb.Host {
	return &catalogpb.Host{Id: e.ID[:], Name: e.Name, Iqn: e.IQN, Nqn: e.NQN,
		Chap: chapTo(e.Chap), MutualChap: chapTo(e.Mutual), Dhchap: dhchapTo(e.DHChap),
		SecretsRevision: e.SecretsRevision, CreatedUnixNano: e.Created.UnixNano()}
}

func (l *loader) host(e *catalogpb.Host) Host {
	return Host{ID: l.id(e.GetId(), false), Name: e.GetName(), IQN: e.GetIqn(), NQN: e.GetNqn(),
		Chap: chapFrom(e.GetChap()), Mutual: chapFrom(e.GetMutualChap()), DHChap: dhchapFrom(e.GetDhchap()),
		SecretsRevision: e.GetSecretsRevision(), Created: decodeTime(e.GetCreatedUnixNano())}
}

func chapTo(c Chap) *catalogpb.Chap {
	if c.IsZero() {
		return nil
	}
	return &catalogpb.Chap{User: c.User, Secret: c.Secret, Sealed: []byte(c.Sealed)}
}

func dhchapTo(c DHChap) *catalogpb.DhChap {
	if c.IsZero() {
		return nil
	}
	return &catalogpb.DhChap{Key: c.Key, ControllerKey: c.ControllerKey,
		SealedKey: []byte(c.SealedKey), SealedControllerKey: []byte(c.SealedControllerKey)}
}

func mappingTo(e *Mapping) *catalogpb.Mapping {
	m := &catalogpb.Mapping{VolumeId: e.Volume[:], Lun: uint32(e.LUN)}
	m.HostId = idTo(e.Host)
	return m
}

func auditTo(e *Audit) *catalogpb.Audit {
	return &catalogpb.Audit{Revision: e.Revision, TimeUnixNano: e.Time.UnixNano(),
		Actor: e.Actor, Source: e.Source, Action: e.Action, Subject: e.Subject, Detail: e.Detail, Refused: e.Refused}
}

func auditFrom(e *catalogpb.Audit) Audit {
	return Audit{Revision: e.GetRevision(), Time: decodeTime(e.GetTimeUnixNano()),
		Actor: e.GetActor(), Source: e.GetSource(), Action: e.GetAction(), Subject: e.GetSubject(),
		Detail: e.GetDetail(), Refused: e.GetRefused()}
}

func answerTo(e *answer) *catalogpb.Answer {
	a := &catalogpb.Answer{RequestId: e.requestID, Digest: e.digest[:], Revision: e.revision}
	if !e.id.IsZero() {
		a.Id = e.id[:]
	}
	return a
}

func (l *loader) answer(e *catalogpb.Answer) answer {
	a := answer{requestID: e.GetRequestId(), revision: e.GetRevision(), id: l.id(e.GetId(), true)}
	l.bad = l.bad || copy(a.digest[:], e.GetDigest()) != len(a.digest) || len(e.GetDigest()) != len(a.digest)
	return a
}
