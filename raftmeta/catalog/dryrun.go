package catalog

import (
	"context"

	"blockd.dev/raftmeta/catalog/catalogpb"
)

// DryRun checks cmd as Apply would, and returns what it would change in words,
// one sentence each. An empty list means that the request was carried out before.
func (s *State) DryRun(cmd *catalogpb.Command) ([]string, error) {
	f, res, err := s.fold(cmd)
	switch {
	case err != nil:
		return nil, err
	case res.Replayed:
		return nil, nil
	}
	return f.changes, nil
}

// DryRun checks cmd against the newest state as DoContext would, changes nothing, and
// returns what it would change in words. A refusal is an *Error. It leaves no trace in the audit log.
func (c *Catalog) DryRun(ctx context.Context, cmd *catalogpb.Command) ([]string, error) {
	if err := c.log.Barrier(ctx); err != nil {
		return nil, failed(err)
	}
	cmd, err := c.prepare(ctx, cmd)
	if err != nil {
		return nil, err
	}
	return c.State().DryRun(cmd)
}
