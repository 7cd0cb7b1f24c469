package catalog

import (
	"cmp"
	"slices"

	"google.golang.org/protobuf/reflect/protoreflect"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
)

// CommandVersion is the newest version of commands that this blockd
// understands. A command with a higher one was made by a newer blockd and is
// refused.
//
//	1  all that a volume of one copy needs
//	2  volumes of several copies: the extent map, numbers of nodes and disks, portals, terms
//	3  moves of extents, limits of volumes, notes in the audit log, jobs about disks
//	4  proofs that a disk has kept what was copied to it
//
// While the newest command in the log is of version 1, a state has the same
// hash, the same snapshot and the same refusals, to the letter, as in releases
// that know nothing else: members of both are in one cluster then, and a member
// whose hash differs from the leader's stops.
const CommandVersion = 4

// ProofVersion is the version of commands from which on an owner may say what a disk proves.
const ProofVersion = 4

// kindVersions has the version of commands with which each kind came in. The
// group opens its gate to a version when all members understand it. A new kind, and
// a new field of an old one, takes a new version.
var kindVersions = map[protoreflect.Name]uint32{
	"init": 1, "create_pool": 1, "create_volume": 1, "resize_volume": 1, "retire_volume": 1, "remove_volume": 1,
	"create_host": 1, "update_host": 1, "delete_host": 1, "map_volume": 1, "unmap_volume": 1, "register_disk": 1,
	"protect_volume": 1, "import": 1, "put_node": 1, "admit_node": 1, "set_node_labels": 1, "set_node_state": 1,
	"remove_node": 1, "set_disk_state": 1, "remove_disk": 1, "create_token": 1, "expire_token": 1, "create_job": 1,
	"progress_job": 1, "set_job_state": 1, "grant_lease": 1, "release_lease": 1, "move_lease": 1, "set_reservation": 1,
	"set_authority": 1, "allocate_extents": 2, "mark_replica": 2, "set_node_portals": 2, "replace_replica": 2,
	"start_moves": 3, "finish_moves": 3, "cancel_moves": 3, "set_volume_limits": 3, "note": 3,
}

// fieldVersions has the version of fields that came in later than what they are in.
var fieldVersions = map[protoreflect.FullName]uint32{
	"blockd.catalog.v1.Command.term":           2,
	"blockd.catalog.v1.CreatePool.min_in_sync": 2,
	"blockd.catalog.v1.CreateVolume.limits":    3,
	"blockd.catalog.v1.MarkReplica.proof":      4,
	"blockd.catalog.v1.FinishMoves.proof":      4,
}

// jobVersions has the version of kinds of jobs that came in later than jobs: a leader of
// an older release would not carry them on.
var jobVersions = map[string]uint32{"drain-disk": 3, "rebuild": 3}

// versionOf is the lowest version that cmd can have; 0 for a command that has
// no kind.
func versionOf(cmd *catalogpb.Command) uint32 {
	m := cmd.ProtoReflect()
	kind := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind"))
	if kind == nil || kindVersions[kind.Name()] == 0 {
		return 0
	}
	return max(kindVersions[kind.Name()], fieldsVersion(m), fieldsVersion(m.Get(kind).Message()), jobVersions[cmd.GetCreateJob().GetKind()])
}

func fieldsVersion(m protoreflect.Message) (version uint32) {
	m.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		version = max(version, fieldVersions[fd.FullName()])
		return true
	})
	return version
}

// kindOf is the name of the command's kind, for the audit log.
func kindOf(cmd *catalogpb.Command) string {
	m := cmd.ProtoReflect()
	kind := m.WhichOneof(m.Descriptor().Oneofs().ByName("kind"))
	if kind == nil {
		return "unknown"
	}
	return string(kind.Name())
}

// Version is the newest version of the commands that led to the state, 1 or more.
// From 2 on nodes and disks have numbers, and pools of several copies take volumes.
func (s *State) Version() uint32 { return max(1, s.version) }

// upgrade brings a state to the version of a command, before it is applied.
// What members did while they were of several releases must not show, so it
// looks at nothing but the state.
func (f *fold) upgrade(to uint32) {
	if f.version < 2 && to >= 2 {
		f.numberAll()
	}
	f.version = max(f.version, to)
}

// numberAll gives numbers to the nodes, in the order in which they came, and to
// the disks, in the order of registration.
func (f *fold) numberAll() {
	f.Nodes, f.Disks = slices.Clone(f.Nodes), slices.Clone(f.Disks)
	byAge := make([]*Node, len(f.Nodes))
	for i := range f.Nodes {
		byAge[i] = &f.Nodes[i]
	}
	slices.SortFunc(byAge, func(a, b *Node) int { return cmp.Or(a.Created.Compare(b.Created), compareIDs(a.ID, b.ID)) })
	for i, n := range byAge {
		n.Number = uint16(i + 1)
	}
	for i := range f.Disks {
		f.Disks[i].Number = extmap.Disk(i + 1)
	}
	f.lastNode, f.lastDisk = uint16(len(f.Nodes)), extmap.Disk(len(f.Disks))
}

// nextNode is the number of a new node.
func (f *fold) nextNode() (uint16, error) {
	switch {
	case f.version < 2:
		return 0, nil
	case f.lastNode == numberMax:
		return 0, refuse(ErrConflict, "this cluster has had %d nodes, and can't number another one", numberMax)
	}
	f.lastNode++
	return f.lastNode, nil
}

// nextDisk is the number of a new disk.
func (f *fold) nextDisk() (extmap.Disk, error) {
	switch {
	case f.version < 2:
		return 0, nil
	case f.lastDisk == numberMax:
		return 0, refuse(ErrConflict, "this cluster has had %d disks, and can't number another one", numberMax)
	}
	f.lastDisk++
	return f.lastDisk, nil
}

// numberMax is the last number that a node or a disk can have.
const numberMax = 1<<16 - 1
