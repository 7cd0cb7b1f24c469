package cluster

import (
	"fmt"
	"os"
	"path/filepath"
)

// Install has nodes run another program, of another release for instance, from
// their next start on.
func (c *Cluster) Install(blockd string, names ...string) error {
	blockd, err := filepath.Abs(blockd)
	if err == nil {
		_, err = os.Stat(blockd)
	}
	if err != nil {
		return fmt.Errorf("cluster: install on %v: %w", names, err)
	}
	return c.update(func(s *state) error {
		nodes, err := s.pick(names)
		if err != nil {
			return err
		}
		for _, p := range nodes {
			p.Blockd = blockd
		}
		return s.save()
	})
}
