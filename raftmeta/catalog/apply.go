package catalog

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"blockd.dev/raftmeta/catalog/catalogpb"
)

// Result is what a command did.
type Result struct {
	Revision uint64 // of the state that first had the effect
	ID       ID     // of what was created, zero otherwise
	Replayed bool   // the request id was answered before; nothing changed now
	Audit    Audit  // what it did in words, whether or not the audit log keeps it; zero when Replayed
}

// Apply returns the state after cmd, and what cmd did. A refused command
// returns an *Error and no state. s is not changed, and shares what it can
// with the new state.
func (s *State) Apply(cmd *catalogpb.Command) (*State, Result, error) {
	f, res, err := s.fold(cmd)
	switch {
	case err != nil:
		return nil, Result{}, err
	case res.Replayed:
		return s, res, nil
	}
	return f.State, res, nil
}

// fold applies cmd to a copy of s.
func (s *State) fold(cmd *catalogpb.Command) (*fold, Result, error) {
	if v := cmd.GetVersion(); v == 0 || v > CommandVersion {
		return nil, Result{}, refuse(ErrInvalid, "command of version %d: this blockd knows version %d; upgrade it", v, CommandVersion)
	}
	if len(cmd.GetRequestId()) > requestIDMax || len(cmd.GetActor()) > actorMax || len(cmd.GetSource()) > actorMax {
		return nil, Result{}, refuse(ErrInvalid, "request id, actor or source too long: at most %d and %d bytes", requestIDMax, actorMax)
	}
	var digest [32]byte
	if id := cmd.GetRequestId(); id != "" {
		digest = commandDigest(cmd)
		for i := range s.answers {
			a := &s.answers[i]
			if a.requestID != id {
				continue
			}
			if a.digest != digest {
				return nil, Result{}, refuse(ErrConflict, "request id %q was used for another request; choose a new one", id)
			}
			return nil, Result{Revision: a.revision, ID: a.id, Replayed: true}, nil
		}
	}

	next := *s
	next.Revision++
	f := &fold{State: &next, now: decodeTime(cmd.GetTimeUnixNano())}
	f.upgrade(cmd.GetVersion())
	id, err := f.apply(cmd)
	if err != nil {
		return nil, Result{}, err
	}
	entry := Audit{Revision: next.Revision, Time: f.now, Actor: cmd.GetActor(), Source: cmd.GetSource(),
		Action: f.action, Subject: clip(f.subject), Detail: clip(f.detail), Refused: clip(f.failed)}
	if !f.quiet {
		next.audit(entry)
	}
	if cmd.GetRequestId() != "" {
		next.answers = appendShared(next.answers, &next.answersTail,
			answer{cmd.GetRequestId(), digest, next.Revision, id}, AnswersMax)
	}
	return f, Result{Revision: next.Revision, ID: id, Audit: entry}, nil
}

// audit adds an entry to the log of changes.
func (s *State) audit(a Audit) { s.Audits = appendShared(s.Audits, &s.auditsTail, a, AuditMax) }

// appendBounded returns a new slice of at most limit entries that ends with e.
func appendBounded[T any](list []T, e T, limit int) []T {
	drop := max(0, len(list)+1-limit)
	out := make([]T, 0, len(list)+1-drop)
	return append(append(out, list[drop:]...), e)
}

// commandDigest is over what the client asked for: not the time, the actor or
// the identifiers that were chosen for it.
func commandDigest(cmd *catalogpb.Command) [32]byte {
	c := proto.CloneOf(cmd)
	c.TimeUnixNano, c.Actor, c.RequestId, c.Source, c.Term = 0, "", "", "", 0
	blankSealed(c)
	switch k := c.GetKind().(type) {
	case *catalogpb.Command_CreatePool:
		k.CreatePool.Id = nil
	case *catalogpb.Command_CreateVolume:
		k.CreateVolume.Id = nil
	case *catalogpb.Command_CreateHost:
		k.CreateHost.Id = nil
	case *catalogpb.Command_CreateJob:
		k.CreateJob.Id = nil
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		// Only invalid UTF-8 fails; such a command can't be logged either, and
		// the digest of its error differs from every other.
		return sha256.Sum256([]byte(err.Error()))
	}
	return sha256.Sum256(b)
}

// fold is one command being applied: the next state, whose slices are replaced
// and never changed in place, and the words for the audit log.
type fold struct {
	*State
	now                     time.Time
	action, subject, detail string
	failed                  string   // why what is noted came to nothing
	quiet                   bool     // the audit log doesn't keep it
	changes                 []string // what is changed, in words
}

func (f *fold) apply(cmd *catalogpb.Command) (ID, error) {
	switch k := cmd.GetKind().(type) {
	case *catalogpb.Command_Init:
		return f.init(k.Init)
	case *catalogpb.Command_Import:
		return f.importPart(k.Import)
	}
	if f.ClusterID.IsZero() {
		return ID{}, refuse(ErrInvalid, "the cluster has not been initialised")
	}
	switch k := cmd.GetKind().(type) {
	case *catalogpb.Command_CreatePool:
		return f.createPool(k.CreatePool)
	case *catalogpb.Command_CreateVolume:
		return f.createVolume(k.CreateVolume)
	case *catalogpb.Command_ResizeVolume:
		return ID{}, f.resizeVolume(k.ResizeVolume)
	case *catalogpb.Command_ProtectVolume:
		return ID{}, f.protectVolume(k.ProtectVolume)
	case *catalogpb.Command_SetVolumeLimits:
		return ID{}, f.setVolumeLimits(k.SetVolumeLimits)
	case *catalogpb.Command_RetireVolume:
		return f.retireVolume(k.RetireVolume)
	case *catalogpb.Command_RemoveVolume:
		return ID{}, f.removeVolume(k.RemoveVolume)
	case *catalogpb.Command_CreateHost:
		return f.createHost(k.CreateHost)
	case *catalogpb.Command_UpdateHost:
		return ID{}, f.updateHost(cmd)
	case *catalogpb.Command_DeleteHost:
		return ID{}, f.deleteHost(k.DeleteHost)
	case *catalogpb.Command_MapVolume:
		return ID{}, f.mapVolume(k.MapVolume)
	case *catalogpb.Command_UnmapVolume:
		return ID{}, f.unmapVolume(k.UnmapVolume)
	case *catalogpb.Command_RegisterDisk:
		return f.registerDisk(k.RegisterDisk)
	case *catalogpb.Command_SetReservation:
		return ID{}, f.setReservation(k.SetReservation)
	case *catalogpb.Command_AllocateExtents:
		return ID{}, f.allocateExtents(k.AllocateExtents)
	case *catalogpb.Command_MarkReplica:
		return ID{}, f.markReplica(k.MarkReplica)
	case *catalogpb.Command_ReplaceReplica:
		return ID{}, f.replaceReplica(k.ReplaceReplica)
	case *catalogpb.Command_StartMoves:
		return ID{}, f.startMoves(k.StartMoves)
	case *catalogpb.Command_FinishMoves:
		return ID{}, f.finishMoves(k.FinishMoves)
	case *catalogpb.Command_CancelMoves:
		return ID{}, f.cancelMoves(k.CancelMoves)
	}
	return f.applyCluster(cmd)
}

// applyCluster is for commands about the cluster rather than what it stores.
func (f *fold) applyCluster(cmd *catalogpb.Command) (ID, error) {
	switch k := cmd.GetKind().(type) {
	case *catalogpb.Command_PutNode:
		return f.putNode(k.PutNode)
	case *catalogpb.Command_AdmitNode:
		return f.admitNode(k.AdmitNode)
	case *catalogpb.Command_SetNodeLabels:
		return ID{}, f.setNodeLabels(k.SetNodeLabels)
	case *catalogpb.Command_SetNodeState:
		return ID{}, f.setNodeState(k.SetNodeState)
	case *catalogpb.Command_SetNodePortals:
		return ID{}, f.setNodePortals(k.SetNodePortals)
	case *catalogpb.Command_RemoveNode:
		return ID{}, f.removeNode(k.RemoveNode)
	case *catalogpb.Command_SetDiskState:
		return ID{}, f.setDiskState(k.SetDiskState)
	case *catalogpb.Command_RemoveDisk:
		return ID{}, f.removeDisk(k.RemoveDisk)
	case *catalogpb.Command_CreateToken:
		return ID{}, f.createToken(k.CreateToken)
	case *catalogpb.Command_ExpireToken:
		return ID{}, f.expireToken(k.ExpireToken)
	case *catalogpb.Command_CreateJob:
		return f.createJob(k.CreateJob, cmd.GetActor())
	case *catalogpb.Command_ProgressJob:
		return ID{}, f.progressJob(k.ProgressJob)
	case *catalogpb.Command_SetJobState:
		return ID{}, f.setJobState(k.SetJobState)
	case *catalogpb.Command_GrantLease:
		return f.grantLease(k.GrantLease)
	case *catalogpb.Command_ReleaseLease:
		return ID{}, f.releaseLease(k.ReleaseLease)
	case *catalogpb.Command_MoveLease:
		return ID{}, f.moveLease(k.MoveLease)
	case *catalogpb.Command_SetAuthority:
		return ID{}, f.setAuthority(k.SetAuthority)
	case *catalogpb.Command_Note:
		return ID{}, f.note(k.Note)
	}
	return ID{}, refuse(ErrInvalid, "unknown kind of command; a newer blockd wrote it")
}

// did says what the command does, for the audit log.
func (f *fold) did(action, subject, format string, args ...any) {
	f.action, f.subject, f.detail = action, subject, fmt.Sprintf(format, args...)
	words := action + " " + subject
	if f.detail != "" {
		words += ": " + f.detail
	}
	f.changes = append(f.changes, words)
}

// quietly is did for what the audit log does not keep.
func (f *fold) quietly(action, subject, format string, args ...any) {
	f.did(action, subject, format, args...)
	f.quiet = true
}

// also says what comes along with it.
func (f *fold) also(format string, args ...any) {
	f.changes = append(f.changes, fmt.Sprintf(format, args...))
}

// identified reports whether something has the identifier.
func (f *fold) identified(id ID) bool {
	return f.VolumeByID(id) != nil || f.HostByID(id) != nil || f.DiskByID(id) != nil || f.NodeByID(id) != nil || f.Job(id) != nil ||
		slices.ContainsFunc(f.Pools, func(p Pool) bool { return p.ID == id })
}

// newID checks an identifier chosen by the maker of a command.
func (f *fold) newID(b []byte) (ID, error) {
	id, ok := idFrom(b)
	switch {
	case !ok:
		return ID{}, refuse(ErrInvalid, "identifier of %d bytes: want 16, not all zero", len(b))
	case f.identified(id):
		return ID{}, refuse(ErrConflict, "identifier %s is in use", id)
	}
	return id, nil
}

func (f *fold) init(c *catalogpb.Init) (ID, error) {
	if !f.ClusterID.IsZero() {
		return ID{}, refuse(ErrExists, "the cluster is initialised already")
	}
	id, ok := idFrom(c.GetClusterId())
	if !ok {
		return ID{}, refuse(ErrInvalid, "cluster id of %d bytes: want 16, not all zero", len(c.GetClusterId()))
	}
	iqn, err := checkIQN(c.GetIqn())
	if err != nil {
		return ID{}, err
	}
	if err := checkNQN(c.GetNqn()); err != nil {
		return ID{}, err
	}
	if iqn == "" || c.GetNqn() == "" {
		return ID{}, refuse(ErrInvalid, "a cluster needs an iSCSI name and an NVMe name")
	}
	f.ClusterID, f.IQN, f.NQN, f.importing = id, iqn, c.GetNqn(), nil
	f.did("cluster.init", id.String(), "iqn %s", iqn)
	return id, nil
}

func (f *fold) createVolume(c *catalogpb.CreateVolume) (ID, error) {
	if err := checkName("volume", c.GetName()); err != nil {
		return ID{}, err
	}
	if err := checkSize(c.GetSizeBytes()); err != nil {
		return ID{}, err
	}
	id, err := f.newID(c.GetId())
	if err != nil {
		return ID{}, err
	}
	i, found := byName(f.Volumes, c.GetName(), volumeName)
	switch {
	case found && f.Volumes[i].Retired:
		return ID{}, refuse(ErrConflict, "volume %q is being deleted; wait until `blockctl volume list` no longer shows it", c.GetName())
	case found:
		return ID{}, refuse(ErrExists, "volume %q exists already; choose another name", c.GetName())
	case c.GetBlockSize() != 512 && c.GetBlockSize() != 4096:
		return ID{}, refuse(ErrInvalid, "block size of %d bytes: want 512 or 4096", c.GetBlockSize())
	case f.Pool(c.GetPool()) == nil:
		return ID{}, refuse(ErrNotFound, "no pool %q; see `blockctl pool list`", c.GetPool())
	}
	limits, err := limitsFrom(c.GetLimits()).check()
	if err != nil {
		return ID{}, err
	}
	home, err := f.place(f.Pool(c.GetPool()), id, c)
	if err != nil {
		return ID{}, err
	}
	lun, ok := f.freeLUN()
	if !ok {
		return ID{}, refuse(ErrConflict, "there are %d volumes, the most there can be", LUNMax+1)
	}
	f.Volumes = inserted(f.Volumes, i, Volume{ID: id, Name: c.GetName(),
		SizeBytes: c.GetSizeBytes(), BlockSize: int(c.GetBlockSize()), LUN: lun, Pool: c.GetPool(), Home: home, Created: f.now, Limits: limits})
	f.did("volume.create", c.GetName(), "size %d, block size %d, pool %s, lun %d%s",
		c.GetSizeBytes(), c.GetBlockSize(), c.GetPool(), lun, limits.detail(", "))
	return id, nil
}

// place finds where a new volume lives: its home, or a place in the map.
func (f *fold) place(p *Pool, id ID, c *catalogpb.CreateVolume) (home ID, err error) {
	switch {
	case p.Spread() == 1:
		return f.chooseHome(p, c.GetHome())
	case f.version < 2:
		return ID{}, refuse(ErrConflict, "pool %q keeps data on %d disks (%s), and this version of blockd writes a volume to one: the replicated data path is missing; use a pool with --replicas 1",
			p.Name, p.Spread(), p.Policy())
	}
	return ID{}, f.spread(p, id, c)
}

// freeLUN is the lowest LUN that no volume has for its own.
func (f *fold) freeLUN() (uint16, bool) {
	taken := make([]bool, len(f.Volumes)+1)
	for i := range f.Volumes {
		if l := int(f.Volumes[i].LUN); l < len(taken) {
			taken[l] = true
		}
	}
	lun := slices.Index(taken, false)
	return uint16(lun), lun <= LUNMax
}

// liveVolume finds a volume that is not being deleted.
func (f *fold) liveVolume(name string) (int, error) {
	i, found := byName(f.Volumes, name, volumeName)
	switch {
	case !found:
		return 0, refuse(ErrNotFound, "no volume %q; see `blockctl volume list`", name)
	case f.Volumes[i].Retired:
		return 0, refuse(ErrConflict, "volume %q is being deleted", name)
	}
	return i, nil
}

func (f *fold) resizeVolume(c *catalogpb.ResizeVolume) error {
	if err := checkSize(c.GetSizeBytes()); err != nil {
		return err
	}
	i, err := f.liveVolume(c.GetName())
	if err != nil {
		return err
	}
	old := f.Volumes[i].SizeBytes
	if c.GetSizeBytes() < old {
		return refuse(ErrInvalid, "volume %q has %d bytes and %d were asked for: volumes do not shrink, since a host would lose the end of its file system; create a smaller volume and copy", c.GetName(), old, c.GetSizeBytes())
	}
	f.Volumes = slices.Clone(f.Volumes)
	f.Volumes[i].SizeBytes = c.GetSizeBytes()
	if err := f.growSpread(&f.Volumes[i]); err != nil {
		return err
	}
	f.did("volume.resize", c.GetName(), "size %d to %d", old, c.GetSizeBytes())
	return nil
}

// protectVolume follows the state machine of NVMe Base 2.0 §8.12: from none and
// write-protect everywhere, from until-power-cycle by a start of the node only, from
// permanent nowhere.
func (f *fold) protectVolume(c *catalogpb.ProtectVolume) error {
	to := Protection(c.GetProtection())
	if !to.valid() {
		return refuse(ErrInvalid, "write protection %q: want write-protect, until-power-cycle, permanent or none", c.GetProtection())
	}
	i, err := f.liveVolume(c.GetName())
	if err != nil {
		return err
	}
	switch from := f.Volumes[i].Protection; {
	case from == to:
	case from == Permanent:
		return refuse(ErrConflict, "volume %q is write-protected for ever; copy it to a new volume to change it", c.GetName())
	case from == UntilPowerCycle && !c.GetPowerCycle():
		return refuse(ErrConflict, "volume %q is write-protected until blockd starts again", c.GetName())
	}
	f.Volumes = slices.Clone(f.Volumes)
	f.Volumes[i].Protection = to
	f.did("volume.protect", c.GetName(), "%s", cmp.Or(string(to), "none"))
	return nil
}

func (f *fold) retireVolume(c *catalogpb.RetireVolume) (ID, error) {
	i, err := f.liveVolume(c.GetName())
	if err != nil {
		return ID{}, err
	}
	id := f.Volumes[i].ID
	f.Volumes = slices.Clone(f.Volumes)
	f.Volumes[i].Retired = true
	f.dropSpread(id)
	had := len(f.Mappings)
	f.Mappings = slices.DeleteFunc(slices.Clone(f.Mappings), func(m Mapping) bool { return m.Volume == id })
	f.did("volume.delete", c.GetName(), "id %s", id)
	if n := had - len(f.Mappings); n > 0 {
		f.also("%s of volume %s are taken away", plural(n, "mapping", "mappings"), c.GetName())
	}
	return id, nil
}

func (f *fold) removeVolume(c *catalogpb.RemoveVolume) error {
	id, _ := idFrom(c.GetId())
	i := slices.IndexFunc(f.Volumes, func(v Volume) bool { return v.ID == id })
	if i < 0 {
		return refuse(ErrNotFound, "no volume with id %s", id)
	}
	name := f.Volumes[i].Name
	if !f.Volumes[i].Retired {
		return refuse(ErrConflict, "volume %q is in use; delete it first", name)
	}
	f.Volumes = without(f.Volumes, i)
	f.forgetLease(id)
	f.reservations = f.reservations.Without(id)
	f.did("volume.removed", name, "id %s", id)
	return nil
}

func dhchapFrom(c *catalogpb.DhChap) DHChap {
	return DHChap{Key: c.GetKey(), ControllerKey: c.GetControllerKey(),
		SealedKey: string(c.GetSealedKey()), SealedControllerKey: string(c.GetSealedControllerKey())}
}

func chapFrom(c *catalogpb.Chap) Chap {
	return Chap{User: c.GetUser(), Secret: c.GetSecret(), Sealed: string(c.GetSealed())}
}

// checkSecrets checks what can be seen of a host's secrets: all of it when
// they are in the clear.
func (h *Host) checkSecrets() error {
	if err := cmp.Or(checkChap("CHAP", h.Chap), checkChap("mutual CHAP", h.Mutual), checkDHChap(h.DHChap)); err != nil {
		return err
	}
	switch {
	case !h.Mutual.IsZero() && h.Chap.IsZero():
		return refuse(ErrInvalid, "mutual CHAP needs CHAP: give --chap-user and --chap-secret-file too")
	case h.Mutual.Secret != "" && h.Mutual.Secret == h.Chap.Secret:
		return refuse(ErrInvalid, "the two CHAP secrets of a host must differ, or one side could answer with what the other sent (RFC 7143 §12.1.3)")
	}
	return nil
}

// checkHost checks what the hosts' fields have in common, except the name.
func (f *fold) checkHost(h *Host) error {
	var err error
	if h.IQN, err = checkIQN(h.IQN); err != nil {
		return err
	}
	if err := cmp.Or(checkNQN(h.NQN), h.checkSecrets()); err != nil {
		return err
	}
	switch {
	case h.IQN == "" && h.NQN == "":
		return refuse(ErrInvalid, "host %q has no name to log in with: give --iqn or --nqn", h.Name)
	case !h.DHChap.IsZero() && h.NQN == "":
		return refuse(ErrInvalid, "DH-HMAC-CHAP is for NVMe: give --nqn too")
	}
	for i := range f.Hosts {
		o := &f.Hosts[i]
		if o.ID == h.ID {
			continue
		}
		if h.IQN != "" && o.IQN == h.IQN || h.NQN != "" && o.NQN == h.NQN {
			return refuse(ErrConflict, "host %q has the same initiator name; each host needs its own", o.Name)
		}
	}
	return nil
}

func (f *fold) createHost(c *catalogpb.CreateHost) (ID, error) {
	if err := checkName("host", c.GetName()); err != nil {
		return ID{}, err
	}
	if c.GetName() == AnyHost {
		return ID{}, refuse(ErrInvalid, "the name %q stands for every host; choose another", AnyHost)
	}
	id, err := f.newID(c.GetId())
	if err != nil {
		return ID{}, err
	}
	i, found := byName(f.Hosts, c.GetName(), hostName)
	switch {
	case found:
		return ID{}, refuse(ErrExists, "host %q exists already; change it with `blockctl host set`", c.GetName())
	case len(f.Hosts) >= HostsMax:
		return ID{}, refuse(ErrConflict, "there are %d hosts, the most there can be", HostsMax)
	}
	h := Host{ID: id, Name: c.GetName(), IQN: c.GetIqn(), NQN: c.GetNqn(),
		Chap: chapFrom(c.GetChap()), Mutual: chapFrom(c.GetMutualChap()), DHChap: dhchapFrom(c.GetDhchap()), SecretsRevision: f.Revision, Created: f.now}
	if err := f.checkHost(&h); err != nil {
		return ID{}, err
	}
	f.Hosts = inserted(f.Hosts, i, h)
	f.did("host.create", h.Name, "%s", hostDetail(&h))
	return id, nil
}

// hostDetail describes a host in the audit log, without secrets.
func hostDetail(h *Host) string {
	return fmt.Sprintf("iqn %q, nqn %q, chap user %q, mutual chap user %q, dhchap %v", h.IQN, h.NQN, h.Chap.User, h.Mutual.User, h.DHChap)
}

func (f *fold) updateHost(cmd *catalogpb.Command) error {
	c := cmd.GetUpdateHost()
	i, found := byName(f.Hosts, c.GetName(), hostName)
	if !found {
		return refuse(ErrNotFound, "no host %q; see `blockctl host list`", c.GetName())
	}
	h := f.Hosts[i]
	if c.Iqn != nil {
		h.IQN = c.GetIqn()
	}
	if c.Nqn != nil {
		h.NQN = c.GetNqn()
	}
	if changeSecrets(&h, c) {
		// Secrets in the clear were all checked here, in this order.
		if c.GetSecretsRevision() != h.SecretsRevision && !commandHasPlaintext(cmd) {
			return refuse(ErrConflict, "the secrets of host %q were changed by somebody else at the same time; look at it and try again", h.Name)
		}
		h.SecretsRevision = f.Revision
	}
	if err := f.checkHost(&h); err != nil {
		return err
	}
	f.Hosts = slices.Clone(f.Hosts)
	f.Hosts[i] = h
	f.did("host.set", h.Name, "%s", hostDetail(&h))
	return nil
}

func (f *fold) deleteHost(c *catalogpb.DeleteHost) error {
	i, found := byName(f.Hosts, c.GetName(), hostName)
	if !found {
		return refuse(ErrNotFound, "no host %q; see `blockctl host list`", c.GetName())
	}
	id := f.Hosts[i].ID
	f.Hosts = slices.Delete(slices.Clone(f.Hosts), i, i+1)
	had := len(f.Mappings)
	f.Mappings = slices.DeleteFunc(slices.Clone(f.Mappings), func(m Mapping) bool { return m.Host == id })
	f.did("host.delete", c.GetName(), "id %s", id)
	if n := had - len(f.Mappings); n > 0 {
		f.also("%s of host %s are taken away", plural(n, "mapping", "mappings"), c.GetName())
	}
	return nil
}

// mappingHost returns the ID that stands for a host's name in mappings.
func (f *fold) mappingHost(name string) (ID, error) {
	if name == AnyHost {
		return ID{}, nil
	}
	h := f.Host(name)
	if h == nil {
		return ID{}, refuse(ErrNotFound, "no host %q; add it with `blockctl host add`, or map to %q", name, AnyHost)
	}
	return h.ID, nil
}

func (f *fold) mapVolume(c *catalogpb.MapVolume) error {
	vi, err := f.liveVolume(c.GetVolume())
	if err != nil {
		return err
	}
	host, err := f.mappingHost(c.GetHost())
	if err != nil {
		return err
	}
	m := Mapping{Volume: f.Volumes[vi].ID, Host: host, LUN: f.Volumes[vi].LUN}
	if c.Lun != nil {
		if c.GetLun() > LUNMax {
			return refuse(ErrInvalid, "LUN %d: want 0 to %d", c.GetLun(), LUNMax)
		}
		m.LUN = uint16(c.GetLun())
	}
	i, found := slices.BinarySearchFunc(f.Mappings, m, compareMappings)
	if found {
		return refuse(ErrExists, "volume %q is mapped to %s at LUN %d already; unmap it first", c.GetVolume(), c.GetHost(), f.Mappings[i].LUN)
	}
	if f.clashes(m) {
		return refuse(ErrConflict, "LUN %d does not fit for %s: a host would see two volumes there, or this volume at another LUN too, counting the mappings to `any`; choose one with --lun, or unmap the other (`blockctl volume show %s`)", m.LUN, c.GetHost(), c.GetVolume())
	}
	f.Mappings = inserted(f.Mappings, i, m)
	f.did("volume.map", c.GetVolume(), "host %s, lun %d", c.GetHost(), m.LUN)
	return nil
}

func (f *fold) unmapVolume(c *catalogpb.UnmapVolume) error {
	vi, err := f.liveVolume(c.GetVolume())
	if err != nil {
		return err
	}
	host, err := f.mappingHost(c.GetHost())
	if err != nil {
		return err
	}
	i, found := slices.BinarySearchFunc(f.Mappings, Mapping{Volume: f.Volumes[vi].ID, Host: host}, compareMappings)
	if !found {
		return refuse(ErrNotFound, "volume %q is not mapped to %s", c.GetVolume(), c.GetHost())
	}
	f.Mappings = slices.Delete(slices.Clone(f.Mappings), i, i+1)
	f.did("volume.unmap", c.GetVolume(), "host %s", c.GetHost())
	return nil
}
