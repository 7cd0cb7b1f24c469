package daemon

import (
	"context"
	"fmt"
	"maps"
	"net"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/control"
	"blockd.dev/raftmeta/pki"
)

// join makes this node one of the cluster of token. What it was as a cluster of its
// own is put aside, so that it must not have anything that would be missed.
// It returns the daemon that runs then, a member and ready.
func (d *Daemon) join(ctx context.Context, token pki.Token, addresses []string) (*Daemon, error) {
	if err := d.mayBecomeMember(); err != nil {
		return nil, err
	}
	if s := d.catalog.State(); len(s.Volumes) > 0 || len(s.Hosts) > 0 {
		return nil, connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("this node has %d volumes and %d hosts of its own, which would be lost; delete them, or join with another --data", len(s.Volumes), len(s.Hosts)))
	}
	self, files := d.plane.self, pki.Files{Dir: d.data.join(dirPKI)}
	key, err := files.JoiningKey()
	if err != nil {
		return nil, err
	}
	a, err := control.Enter(ctx, token, addresses, self.ID, key, &blockdv1.AdmitNodeRequest{
		Name: catalogName(d.nodeName()), Address: d.cfg.API, Labels: maps.Clone(d.cfg.Labels), Roles: d.cfg.Roles,
		FormatVersionSupported: catalog.CommandVersion, Version: Version()})
	if err != nil {
		return nil, fmt.Errorf("the cluster has not let this node in: %w", err)
	}
	now, err := d.renew(func(data *dataDir) error {
		if err := data.leave(); err != nil {
			return err
		}
		self.Cluster, self.Joining = a.Cluster, &joining{a.Incarnation, a.Members}
		if err := data.saveIdentity(self); err != nil {
			return err
		}
		// The certificate comes last, and makes the node a member.
		return files.Save(a.Member)
	})
	if err != nil {
		return nil, fmt.Errorf("the cluster has let this node in, and it could not start as a member: %w", err)
	}
	return now, nil
}

// mayBecomeMember says why the node can't make or join a cluster, if so.
func (d *Daemon) mayBecomeMember() error {
	if d.plane.creds != nil {
		return connect.NewError(connect.CodeAlreadyExists, fmt.Errorf("this node belongs to cluster %s already", d.plane.self.Cluster))
	}
	if d.renew == nil {
		return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("this blockd runs without a control socket, and can't start anew as a member"))
	}
	host, port, err := net.SplitHostPort(d.cfg.API)
	if ip := net.ParseIP(host); err != nil || host == "" || port == "0" || ip != nil && ip.IsUnspecified() {
		return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("other nodes can't reach this one at %s; start it with an address of its own and a port: --api 10.0.0.1:7480", d.cfg.API))
	}
	return nil
}
