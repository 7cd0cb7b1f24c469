package cluster

import (
	"context"
	"syscall"
)

// Renew makes a node that was removed from the cluster a new one of the same name and addresses: with an
// empty data directory and empty disks it is started, and joins by the token of a member. What it had is gone.
func (c *Cluster) Renew(ctx context.Context, name, member string) error {
	return c.update(func(s *state) error {
		nodes, err := s.pick([]string{name, member})
		if err != nil {
			return err
		}
		p := nodes[0]
		if err := p.Process.end(syscall.SIGKILL, killPatience); err != nil {
			return err
		}
		if err := s.emptyDisks(p); err != nil {
			return err
		}
		if err := s.fillDisks(p); err != nil {
			return err
		}
		if err := s.startNodes(ctx, nodes[:1]); err != nil {
			return err
		}
		return p.join(ctx, nodes[1])
	})
}
