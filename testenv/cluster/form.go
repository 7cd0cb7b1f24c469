package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"connectrpc.com/connect"

	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
)

// Client speaks to blockd on a node by its control socket, as an administrator.
// The address is for generated clients. Close idle connections when done.
func (c *Cluster) Client(name string) (client *http.Client, address string, err error) {
	s, err := load(c.dir)
	if err != nil {
		return nil, "", err
	}
	nodes, err := s.pick([]string{name})
	if err != nil {
		return nil, "", err
	}
	client, address = nodes[0].client()
	return client, address, nil
}

func (p *Place) client() (*http.Client, string) {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		// A socket's path has at most 107 bytes (unix(7)); through the directory's
		// descriptor it always fits.
		dir, err := os.Open(p.Data())
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		return new(net.Dialer).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(p.Socket())))
	}}}, "http://" + p.Name
}

// form makes one cluster of the nodes: the first makes it, the others join.
func (s *state) form(ctx context.Context) error {
	first := s.nodes()[0]
	client, address := first.client()
	defer client.CloseIdleConnections()
	api := blockdv1connect.NewClusterServiceClient(client, address)
	made, err := api.InitCluster(ctx, connect.NewRequest(&blockdv1.InitClusterRequest{RequestId: s.Prefix + "-init", Name: s.Prefix}))
	if err != nil {
		return fmt.Errorf("cluster: %s makes a cluster: %w", first.Name, err)
	}
	bundle := slices.Concat(s.bundleHead(), made.Msg.GetAdminCertificatePem(), made.Msg.GetAdminKeyPem(), made.Msg.GetCaPem())
	if err := os.WriteFile(filepath.Join(s.Config.Dir, bundleFile), bundle, 0o600); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	for _, p := range s.nodes()[1:] {
		if err := p.join(ctx, first); err != nil {
			return err
		}
	}
	if err := s.awaitVoters(ctx, api); err != nil {
		return err
	}
	s.Formed = true
	return s.save()
}

// votersMin is how many voters there are at least in a cluster of as many nodes or more.
const votersMin = 3

// awaitVoters waits until the cluster bears the loss of a node, if it has
// nodes enough. Nodes vote once they have caught up, and that goes on after they have joined.
func (s *state) awaitVoters(ctx context.Context, api blockdv1connect.ClusterServiceClient) error {
	if len(s.nodes()) < votersMin {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.Config.ReadyTimeout)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for voters := 0; ; {
		res, err := api.GetCluster(ctx, connect.NewRequest(&blockdv1.GetClusterRequest{}))
		if err == nil {
			voters = 0
			for _, m := range res.Msg.GetCluster().GetMembers() {
				if m.GetSuffrage() == "voter" {
					voters++
				}
			}
			if voters >= votersMin {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("cluster: %d voters, want %d: %w", voters, votersMin, ctx.Err()), err)
		case <-tick.C:
		}
	}
}

// bundleHead tells blockctl where the nodes are.
func (s *state) bundleHead() []byte {
	return []byte("blockd cluster: " + s.Prefix + "\nblockd node: " + strings.Join(s.apis(), "\nblockd node: ") + "\n")
}

// join makes a node a member of a cluster, by a token that a member makes.
func (p *Place) join(ctx context.Context, member *Place) error {
	id := fmt.Sprintf("%s-join-%d", p.Namespace, time.Now().UnixNano())
	at, address := member.client()
	defer at.CloseIdleConnections()
	token, err := blockdv1connect.NewClusterServiceClient(at, address).CreateJoinToken(ctx,
		connect.NewRequest(&blockdv1.CreateJoinTokenRequest{RequestId: id}))
	if err != nil {
		return fmt.Errorf("cluster: %s makes a token for %s: %w", member.Name, p.Name, err)
	}
	client, address := p.client()
	defer client.CloseIdleConnections()
	_, err = blockdv1connect.NewClusterServiceClient(client, address).JoinCluster(ctx,
		connect.NewRequest(&blockdv1.JoinClusterRequest{RequestId: id, Token: token.Msg.GetToken()}))
	if err != nil {
		return fmt.Errorf("cluster: %s joins: %w", p.Name, err)
	}
	return nil
}
