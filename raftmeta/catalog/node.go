package catalog

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/pki"
)

// Bounds of what is known of nodes.
const (
	NodesMax   = 256
	LabelsMax  = 32
	RolesMax   = 8
	RevokedMax = 4096

	labelValueMax = 253
	addressMax    = 255
	releaseMax    = 64
	reasonMax     = 512
	serialMax     = 64
)

// NodeState says how far an administrator wants a node to take part. Whether
// it is up is not in the catalog: that is measured, see package membership.
type NodeState string

// The states of nodes. A node that is removed is gone from the list.
const (
	NodeActive   NodeState = "active"
	NodeHeld     NodeState = "held"     // gets nothing new, keeps what it has
	NodeDraining NodeState = "draining" // what it has is being moved away
	NodeDrained  NodeState = "drained"  // has nothing any more
)

// Node is a member of the cluster.
type Node struct {
	ID      ID     // in hexadecimal it is the group's and the certificate's id of the node
	Number  uint16 // no other node ever has it; 0 in a State of version 1
	Name    string
	Address string  // of its control port, HOST:PORT
	Portals Portals // where hosts and other nodes reach it
	Labels  []Label // by key
	Roles   []string
	Release string // of its blockd
	Serial  string // of its certificate, in hexadecimal; empty without one
	State   NodeState
	Reason  string // for the state
	Created time.Time
}

// Label is something that an administrator says of a node: host, rack and zone are
// its failure domains.
type Label struct{ Key, Value string }

// Revoked is the certificate of a node that was removed, or one that was
// replaced before the node had it. It is kept until it has expired.
type Revoked struct {
	Node   ID // that was removed; zero when the node stays
	Name   string
	Serial string
	Time   time.Time
}

func nodeName(n *Node) string  { return n.Name }
func labelKey(l *Label) string { return l.Key }
func tokenID(t *Token) string  { return string(t.ID[:]) }

func (s NodeState) valid() bool {
	return s == NodeActive || s == NodeHeld || s == NodeDraining || s == NodeDrained
}

// Label returns the value of a label, or "".
func (n *Node) Label(key string) string {
	if i, ok := search(n.Labels, key, labelKey); ok {
		return n.Labels[i].Value
	}
	return ""
}

// Plays reports whether the node has a role; one without any roles has all.
func (n *Node) Plays(role string) bool { return len(n.Roles) == 0 || slices.Contains(n.Roles, role) }

// FailureDomain returns the failure domain of the node at a level: host, rack
// or zone. A node without a label for its host is a host by itself; one without a rack or zone is
// in the one that has no name.
func (n *Node) FailureDomain(level string) string {
	if v := n.Label(level); v != "" || level != "host" {
		return v
	}
	return n.Name
}

// Node returns the node called name, or nil.
func (s *State) Node(name string) *Node {
	if i, ok := byName(s.Nodes, name, nodeName); ok {
		return &s.Nodes[i]
	}
	return nil
}

// NodeByID returns the node with the identifier, or nil.
func (s *State) NodeByID(id ID) *Node {
	for i := range s.Nodes {
		if s.Nodes[i].ID == id {
			return &s.Nodes[i]
		}
	}
	return nil
}

// NodeByNumber returns the node with the number, or nil.
func (s *State) NodeByNumber(number uint16) *Node {
	for i := range s.Nodes {
		if s.Nodes[i].Number == number && number != 0 {
			return &s.Nodes[i]
		}
	}
	return nil
}

// IsRevoked reports whether a certificate is worth nothing any more: that of a node that was
// removed, whichever it has, or the one with a serial number, in hexadecimal, that was replaced.
func (s *State) IsRevoked(node ID, serial string) bool {
	return slices.ContainsFunc(s.Revoked, func(r Revoked) bool {
		return !r.Node.IsZero() && r.Node == node || r.Serial != "" && r.Serial == serial
	})
}

// namedNode finds a node for a command.
func (f *fold) namedNode(name string) (int, error) {
	i, found := byName(f.Nodes, name, nodeName)
	if !found {
		return 0, refuse(ErrNotFound, "no node %q; see `blockctl node list`", name)
	}
	return i, nil
}

// nodeFrom checks what a command says of a node.
func (f *fold) nodeFrom(c *catalogpb.PutNode) (Node, error) {
	id, ok := idFrom(c.GetId())
	n := Node{ID: id, Name: c.GetName(), Address: c.GetAddress(), Release: c.GetRelease(), Serial: c.GetSerial(),
		Roles: slices.Clone(c.GetRoles()), State: NodeActive, Created: f.now}
	if err := checkName("node", n.Name); err != nil {
		return n, err
	}
	slices.Sort(n.Roles)
	n.Roles = slices.Compact(n.Roles)
	switch {
	case !ok:
		return n, refuse(ErrInvalid, "identifier of %d bytes: want 16, not all zero", len(c.GetId()))
	case n.Address == "" || len(n.Address) > addressMax || len(n.Release) > releaseMax || len(n.Serial) > serialMax:
		return n, refuse(ErrInvalid, "node %q: its address has 1 to %d bytes, its release at most %d and its serial number %d", n.Name, addressMax, releaseMax, serialMax)
	case len(n.Roles) > RolesMax || slices.ContainsFunc(n.Roles, func(r string) bool { return checkName("role", r) != nil }):
		return n, refuse(ErrInvalid, "node %q: roles %q: at most %d names", n.Name, n.Roles, RolesMax)
	}
	var err error
	n.Labels, err = changeLabels(nil, c.GetLabels())
	return n, err
}

// changeLabels returns the labels after those in change were set, or removed by an empty value.
func changeLabels(have []Label, change []*catalogpb.Label) ([]Label, error) {
	out := slices.Clone(have)
	for _, c := range change {
		if err := checkName("label", c.GetKey()); err != nil {
			return nil, err
		}
		if len(c.GetValue()) > labelValueMax || strings.ContainsFunc(c.GetValue(), func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, refuse(ErrInvalid, "label %s: its value has at most %d bytes, and no control characters", c.GetKey(), labelValueMax)
		}
		i, found := search(out, c.GetKey(), labelKey)
		switch {
		case c.GetValue() == "" && found:
			out = slices.Delete(out, i, i+1)
		case c.GetValue() == "":
		case found:
			out[i].Value = c.GetValue()
		default:
			out = slices.Insert(out, i, Label{c.GetKey(), c.GetValue()})
		}
	}
	if len(out) > LabelsMax {
		return nil, refuse(ErrInvalid, "%d labels on a node: at most %d", len(out), LabelsMax)
	}
	return out, nil
}

// addNode puts a new node into the list.
func (f *fold) addNode(n Node) error {
	i, found := byName(f.Nodes, n.Name, nodeName)
	switch {
	case found:
		return refuse(ErrExists, "node %q exists already; choose another name, or remove that node first", n.Name)
	case f.identified(n.ID):
		return refuse(ErrConflict, "identifier %s is in use", n.ID)
	case slices.ContainsFunc(f.Revoked, func(r Revoked) bool { return r.Node == n.ID }):
		return refuse(ErrConflict, "node %s was removed, and can't come back; wipe its data directory and let it join again", n.ID)
	case len(f.Nodes) >= NodesMax:
		return refuse(ErrConflict, "there are %d nodes, the most there can be", NodesMax)
	}
	var err error
	if n.Number, err = f.nextNode(); err != nil {
		return err
	}
	f.Nodes = inserted(f.Nodes, i, n)
	return nil
}

// keep takes over what a node has that it does not say of itself.
func (n *Node) keep(have *Node) {
	n.Number, n.Portals, n.State, n.Reason, n.Created = have.Number, have.Portals, have.State, have.Reason, have.Created
}

// putNode makes the first node known, or changes what a node says of itself.
func (f *fold) putNode(c *catalogpb.PutNode) (ID, error) {
	n, err := f.nodeFrom(c)
	if err != nil {
		return ID{}, err
	}
	i := slices.IndexFunc(f.Nodes, func(have Node) bool { return have.ID == n.ID })
	if i < 0 && len(f.Nodes) > 0 {
		return ID{}, refuse(ErrNotFound, "node %s is not of this cluster; it joins by a token: `blockctl node token`", n.ID)
	}
	if i < 0 {
		if err := f.addNode(n); err != nil {
			return ID{}, err
		}
		f.adopt(n.ID)
		f.did("node.first", n.Name, "id %s, address %s", n.ID, n.Address)
		return n.ID, nil
	}
	have := f.Nodes[i]
	n.keep(&have)
	n.Labels = have.Labels
	if n.Name != have.Name && f.Node(n.Name) != nil {
		return ID{}, refuse(ErrExists, "node %q exists already; choose another name", n.Name)
	}
	f.Nodes = without(f.Nodes, i)
	at, _ := byName(f.Nodes, n.Name, nodeName)
	f.Nodes = slices.Insert(f.Nodes, at, n)
	f.did("node.set", n.Name, "address %s, release %s, serial %s", n.Address, n.Release, n.Serial)
	return n.ID, nil
}

// adopt gives the first node the volumes in memory that were made before nodes were
// known; those on a disk follow when it is registered.
func (f *fold) adopt(node ID) {
	f.Volumes = slices.Clone(f.Volumes)
	for i := range f.Volumes {
		if p := f.Pool(f.Volumes[i].Pool); f.Volumes[i].Home.IsZero() && p.Media == MediaRAM {
			f.Volumes[i].Home = node
		}
	}
}

// admitNode lets a node in by a token. It may come again with the same one,
// since the answer to its first attempt may have been lost; then its certificate is the newer one, or the same by
// its serial number: see pki.Authority.SignJoin.
func (f *fold) admitNode(c *catalogpb.AdmitNode) (ID, error) {
	n, err := f.nodeFrom(c.GetNode())
	if err != nil {
		return ID{}, err
	}
	if err := f.redeem(c.GetToken(), c.GetProof(), n.ID); err != nil {
		return ID{}, err
	}
	if i := slices.IndexFunc(f.Nodes, func(have Node) bool { return have.ID == n.ID }); i >= 0 {
		if f.Nodes[i].Name != n.Name {
			return ID{}, refuse(ErrConflict, "the node with this token was admitted as %q; join by that name", f.Nodes[i].Name)
		}
		if old := f.Nodes[i].Serial; old != "" && old != n.Serial {
			f.revoke(Revoked{Name: n.Name, Serial: old})
		}
		n.keep(&f.Nodes[i])
		f.Nodes = replaced(f.Nodes, i, n)
	} else if err := f.addNode(n); err != nil {
		return ID{}, err
	}
	f.did("node.admit", n.Name, "id %s, address %s, token %x", n.ID, n.Address, c.GetToken())
	return n.ID, nil
}

func (f *fold) setNodeLabels(c *catalogpb.SetNodeLabels) error {
	i, err := f.namedNode(c.GetNode())
	if err != nil {
		return err
	}
	n := f.Nodes[i]
	if n.Labels, err = changeLabels(n.Labels, c.GetLabels()); err != nil {
		return err
	}
	f.Nodes = replaced(f.Nodes, i, n)
	words := make([]string, len(n.Labels))
	for i, l := range n.Labels {
		words[i] = l.Key + "=" + l.Value
	}
	f.did("node.label", n.Name, "now %s", cmp.Or(strings.Join(words, ", "), "none"))
	return nil
}

func (f *fold) setNodeState(c *catalogpb.SetNodeState) error {
	i, err := f.namedNode(c.GetNode())
	if err != nil {
		return err
	}
	n, to := f.Nodes[i], NodeState(c.GetState())
	if !to.valid() || len(c.GetReason()) > reasonMax {
		return refuse(ErrInvalid, "state %q of a node: want active, held, draining or drained, and a reason of at most %d bytes", c.GetState(), reasonMax)
	}
	if to == NodeDrained {
		if volumes, leases := f.stillOn(n.ID); volumes+leases > 0 {
			return refuse(ErrConflict, "node %q is not drained: it still has %s and %s", n.Name,
				plural(volumes, "volume", "volumes"), plural(leases, "lease", "leases"))
		}
		if copies := f.ReplicasOn(n.ID); copies > 0 {
			return refuse(ErrConflict, "node %q is not drained: it still has a copy of %s", n.Name, plural(copies, "volume", "volumes"))
		}
	}
	from := n.State
	n.State, n.Reason = to, c.GetReason()
	f.Nodes = replaced(f.Nodes, i, n)
	f.did("node.state", n.Name, "%s to %s; %s", from, to, cmp.Or(n.Reason, "no reason given"))
	return nil
}

// stillOn counts the volumes that live on a node alone, and the leases it has.
func (s *State) stillOn(node ID) (volumes, leases int) {
	own := map[ID]bool{node: true}
	for i := range s.Disks {
		own[s.Disks[i].ID] = s.Disks[i].Node == node
	}
	for i := range s.Volumes {
		if own[s.Volumes[i].Home] {
			volumes++
		}
	}
	for _, e := range s.leases.All() {
		if e.Owner == node.String() {
			leases++
		}
	}
	return volumes, leases
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// removeNode forgets a node.
func (f *fold) removeNode(c *catalogpb.RemoveNode) error {
	i, err := f.namedNode(c.GetNode())
	if err != nil {
		return err
	}
	n := f.Nodes[i]
	disks := 0
	for j := range f.Disks {
		if f.Disks[j].Node == n.ID {
			disks++
		}
	}
	volumes, leases := f.stillOn(n.ID)
	switch {
	case len(f.Nodes) == 1:
		return refuse(ErrConflict, "node %q is the last one; to give the cluster up, delete its data directory", n.Name)
	case f.ReplicasOn(n.ID) > 0:
		return refuse(ErrConflict, "node %q has a copy of %s, which other disks must have first: `blockctl node drain %s --for remove` moves them there; `blockctl explain VOLUME` says what one waits for", n.Name, plural(f.ReplicasOn(n.ID), "volume", "volumes"), n.Name)
	case volumes > 0:
		return refuse(ErrConflict, "node %q still has %s, and nothing else has their data; delete them first (`blockctl volume delete`), or if it is lost for good, give them up by --force", n.Name, plural(volumes, "volume", "volumes"))
	case !c.GetForce() && (leases > 0 || disks > 0 || n.State != NodeDrained):
		return refuse(ErrConflict, "node %q has no volumes, but is %s, with %s and %s; if nothing is to be served by it any more, remove it with --force, which forgets its disks",
			n.Name, n.State, plural(disks, "disk", "disks"), plural(leases, "lease", "leases"))
	}
	f.revoke(Revoked{Node: n.ID, Name: n.Name, Serial: n.Serial})
	f.Nodes = without(f.Nodes, i)
	f.Disks = slices.DeleteFunc(slices.Clone(f.Disks), func(d Disk) bool { return d.Node == n.ID })
	f.forgetMoves(n.ID)
	f.did("node.remove", n.Name, "id %s, serial %s revoked", n.ID, cmp.Or(n.Serial, "none"))
	if disks > 0 {
		f.also("%s of node %s are forgotten", plural(disks, "disk", "disks"), n.Name)
	}
	return nil
}

// revoke remembers a certificate that is worth nothing any more, and forgets
// those that have expired since.
func (f *fold) revoke(r Revoked) {
	old := f.now.Add(-pki.NodeLife)
	list := slices.DeleteFunc(slices.Clone(f.Revoked), func(r Revoked) bool { return r.Time.Before(old) })
	r.Time = f.now
	f.Revoked = appendBounded(list, r, RevokedMax)
}

func nodeTo(e *Node) *catalogpb.Node {
	n := &catalogpb.Node{Id: e.ID[:], Number: uint32(e.Number), Portals: portalsTo(e.Portals), Name: e.Name, Address: e.Address, Roles: e.Roles, Release: e.Release,
		Serial: e.Serial, State: string(e.State), Reason: e.Reason, CreatedUnixNano: e.Created.UnixNano()}
	for _, l := range e.Labels {
		n.Labels = append(n.Labels, &catalogpb.Label{Key: l.Key, Value: l.Value})
	}
	return n
}

func (l *loader) node(e *catalogpb.Node) Node {
	n := Node{ID: l.id(e.GetId(), false), Number: l.number(e.GetNumber()), Portals: portalsFrom(e.GetPortals()), Name: e.GetName(), Address: e.GetAddress(), Roles: e.GetRoles(), Release: e.GetRelease(),
		Serial: e.GetSerial(), State: NodeState(e.GetState()), Reason: e.GetReason(), Created: decodeTime(e.GetCreatedUnixNano())}
	for _, x := range e.GetLabels() {
		n.Labels = append(n.Labels, Label{x.GetKey(), x.GetValue()})
	}
	l.bad = l.bad || !n.State.valid()
	return n
}

func revokedTo(e *Revoked) *catalogpb.Revoked {
	return &catalogpb.Revoked{Node: idTo(e.Node), Name: e.Name, Serial: e.Serial, TimeUnixNano: e.Time.UnixNano()}
}

func (l *loader) revoked(e *catalogpb.Revoked) Revoked {
	return Revoked{Node: l.id(e.GetNode(), true), Name: e.GetName(), Serial: e.GetSerial(), Time: decodeTime(e.GetTimeUnixNano())}
}
