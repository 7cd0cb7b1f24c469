package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"unicode"

	"blockd.dev/internal/durable"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/control"
	"blockd.dev/raftmeta/group"
	"blockd.dev/raftmeta/pki"
)

// plane is the node's part of the control plane: who it is, its control port,
// and its member of the Raft group, whose state machine is the catalog.
type plane struct {
	self  nodeIdentity
	keys  pki.Keyring
	creds *pki.Credentials // nil while the node belongs to no cluster
	port  *group.Listener  // nil while nothing may be heard, see openPort
	group *group.Group
	peers *control.Peers // nil while the node belongs to no cluster
}

// id is the node's, as the catalog has it.
func (p *plane) id() catalog.ID { return parseID(p.self.ID) }

// openPlane opens the node's control port and its member of the Raft group.
// The catalog can be read then, but may be behind: see catchUp.
func (d *Daemon) openPlane() error {
	p := &d.plane
	var err error
	if p.self, err = d.data.loadIdentity(); err != nil {
		return err
	}
	if p.keys, err = d.data.loadKeys(); err != nil {
		return fmt.Errorf("cluster keys: %w", err)
	}
	files := pki.Files{Dir: d.data.join(dirPKI)}
	member, err := files.Exists()
	if err != nil {
		return err
	}
	if member {
		m, err := files.Load()
		if err != nil {
			return err
		}
		if p.creds, err = pki.NewCredentials(m.Certificate, m.Key, m.Bundle); err != nil {
			return err
		}
		p.keys, p.peers = m.Keyring, control.NewPeers(p.creds)
		if id := p.creds.Self(); id.Node != p.self.ID || id.Cluster != p.self.Cluster {
			return fmt.Errorf("the certificate in %s is of %s, and %s says node %s of cluster %s; they don't belong together",
				files.Dir, id, d.data.join(fileNode), p.self.ID, p.self.Cluster)
		}
	}
	if err := d.openPort(); err != nil {
		return err
	}
	return d.openGroup()
}

// openPort listens for the control API and for members. A node of no cluster
// has no certificates, so it is heard on the loopback only; at another address it
// waits to be made one of a cluster through its socket.
func (d *Daemon) openPort() error {
	p := &d.plane
	if p.creds == nil && !isLoopback(d.cfg.API) {
		d.events.add(levelWarning, "api.closed", d.cfg.API,
			fmt.Sprintf("nothing is served there before this node belongs to a cluster: blockctl --api unix:%s cluster init, or node join TOKEN", d.data.join(fileSocket)))
		return nil
	}
	inner, err := net.Listen("tcp", d.cfg.API)
	if err != nil {
		return fmt.Errorf("control API: %w; is another blockd running? choose another address with --api", err)
	}
	p.port, err = group.NewListener(inner, p.creds)
	return err
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

// openGroup opens the member in the data directory, or makes it.
func (d *Daemon) openGroup() error {
	p := &d.plane
	fsm := catalog.NewFSM()
	cfg := group.Config{
		Dir: d.data.join(dirRaft), Cluster: p.self.Cluster, NodeID: p.self.ID, Address: d.APIAddress(),
		FSM: fsm, Bootstrap: p.self.Joining == nil, Events: d.groupEvent, Heartbeat: d.cfg.patience / 4,
	}
	if p.creds != nil {
		cfg.Listener = p.port
	}
	if j := p.self.Joining; j != nil {
		cfg.Incarnation = j.Incarnation
	}
	var err error
	if p.group, err = group.Open(cfg); err != nil {
		return err
	}
	d.catalog = catalog.New(fsm, p.group, func() pki.Keyring { return p.keys })
	return nil
}

// catchUp makes a node that was admitted a member, and returns when the
// catalog is as new as the group's: when a majority of its voters is up.
func (d *Daemon) catchUp(ctx context.Context) error {
	p := &d.plane
	if j := p.self.Joining; j != nil {
		if err := p.group.Join(ctx, j.Members); err != nil {
			return err
		}
		p.self.Joining = nil
		if err := d.data.saveIdentity(p.self); err != nil {
			return err
		}
	}
	return p.group.Barrier(ctx)
}

// closePlane leaves the group for now; a leader hands over first.
func (d *Daemon) closePlane(ctx context.Context) error {
	var errs []error
	if d.plane.peers != nil {
		d.plane.peers.Close()
	}
	if d.plane.group != nil {
		errs = append(errs, d.plane.group.Stop(ctx))
	}
	if d.plane.port != nil {
		errs = append(errs, d.plane.port.Close())
	}
	return errors.Join(errs...)
}

// leave puts aside what the node was as a group of its own.
func (d *dataDir) leave() error {
	if err := os.RemoveAll(d.join(dirOldRaft)); err != nil {
		return err
	}
	if err := os.Rename(d.join(dirRaft), d.join(dirOldRaft)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return durable.SyncDir(d.path)
}

// groupEvent turns what the group says into events of the node.
func (d *Daemon) groupEvent(e group.Event) {
	lv, kind := levelInfo, "cluster.member"
	switch e.Kind {
	case group.EventLeader:
		kind = "cluster.leader"
		if e.Node == "" {
			lv = levelWarning
		}
	case group.EventGate:
		kind = "cluster.version"
	case group.EventSnapshot, group.EventRestored, group.EventHash:
		kind = "cluster.state"
	case group.EventHalted:
		lv, kind = levelError, "cluster.stopped"
	case group.EventLibrary:
		lv, kind = levelWarning, "cluster.raft"
		if !d.errorGate.pass("raft") {
			return
		}
	}
	subject := e.Node
	if subject == "" {
		subject = d.nodeName()
	}
	d.events.add(lv, kind, subject, e.String())
}

// introduce tells the catalog what this node is, if it knows something else.
func (d *Daemon) introduce() error {
	p := &d.plane
	id := p.id()
	want := &catalogpb.PutNode{Id: id[:], Name: catalogName(d.nodeName()), Address: d.APIAddress(), Labels: labelList(d.cfg.Labels),
		Roles: slices.Sorted(slices.Values(d.cfg.Roles)), Release: Version()}
	if p.creds != nil {
		want.Serial = pki.Serial(p.creds.Certificate())
	}
	n := d.catalog.State().NodeByID(id)
	if n != nil && n.Name == want.Name && n.Address == want.Address && slices.Equal(n.Roles, want.Roles) && n.Release == want.Release && n.Serial == want.Serial {
		return nil
	}
	_, err := d.do(nil, &catalogpb.Command{Kind: &catalogpb.Command_PutNode{PutNode: want}})
	return err
}

// expel ends the membership of nodes that the catalog has no more. Whoever
// removed one has done so already, unless it was killed in between.
func (d *Daemon) expel() {
	if _, leads := d.plane.group.Leads(); !leads || d.plane.creds == nil {
		return
	}
	members := d.plane.group.Stats().Members
	s := d.catalog.State() // read later: a node is in the catalog before it is a member
	for _, m := range members {
		if s.NodeByID(parseID(m.ID)) != nil || m.ID == d.plane.self.ID {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
		err := d.plane.group.Remove(ctx, m.ID)
		cancel()
		if err != nil {
			d.events.add(levelWarning, "node.remove", m.ID, fmt.Sprintf("it is out of the catalog, and could not be taken out of the group: %v", err))
		}
	}
}

// catalogName makes a name for the catalog out of the machine's.
func catalogName(host string) string {
	name := strings.TrimLeft(strings.Map(func(r rune) rune {
		if r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r)) || strings.ContainsRune("._-", r) {
			return r
		}
		return '-'
	}, host), "._-")
	return cmp.Or(name[:min(len(name), 63)], "node")
}
