package daemon

import (
	"fmt"

	"blockd.dev/raftmeta/catalog"
	"blockd.dev/target/auth"
)

// directory answers for the catalog who may log in.
type directory struct{ catalog *catalog.Catalog }

// Host lets in the hosts of the catalog, with CHAP where they have it, and
// others only while something is mapped to any host.
func (d directory) Host(name string) (auth.Policy, error) {
	s := d.catalog.State()
	h := s.HostByIQN(name)
	if h == nil {
		if len(s.View(catalog.ID{})) == 0 {
			return auth.Policy{}, auth.ErrNotAllowed
		}
		return auth.Policy{}, nil
	}
	var p auth.Policy
	open, err := d.catalog.Unseal(h)
	if err == nil {
		p.Host, err = credentials(open.Chap)
	}
	if err == nil {
		p.Target, err = credentials(open.Mutual)
	}
	if err != nil {
		return auth.Policy{}, fmt.Errorf("host %s: %w", h.Name, err)
	}
	return p, nil
}

// Discovery lets in whom Host does, without CHAP: it tells the target's name
// and addresses, and initiators keep separate secrets for it.
func (d directory) Discovery(name string) (auth.Policy, error) {
	_, err := d.Host(name)
	return auth.Policy{}, err
}

func credentials(c catalog.Chap) (auth.Credentials, error) {
	if c.IsZero() {
		return auth.Credentials{}, nil
	}
	secret, err := auth.NewSecret([]byte(c.Secret))
	return auth.Credentials{Name: c.User, Secret: secret}, err
}
