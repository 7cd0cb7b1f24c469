package catalog

import (
	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/pki"
)

// AuthorityLabel is what the authority's key is sealed for: see pki.Keyring.
const AuthorityLabel = "authority"

const authorityMax = 64 << 10

// Authority is the cluster's certificate authority. The zero value means that
// the node belongs to no cluster yet.
type Authority struct {
	ClusterName string
	SealedKey   string // pki.Authority's encoding, sealed; bytes
	BundlePEM   string // what is trusted, public
	Revision    uint64 // of the last change
}

func (f *fold) setAuthority(c *catalogpb.SetAuthority) error {
	if err := checkName("cluster", c.GetClusterName()); err != nil {
		return err
	}
	_, err := pki.SealedBy(c.GetSealedKey())
	switch {
	case f.Authority.Revision != c.GetExpectRevision():
		return refuse(ErrConflict, "the authority was changed at revision %d, not %d: somebody else was first", f.Authority.Revision, c.GetExpectRevision())
	case err != nil || len(c.GetSealedKey()) > authorityMax:
		return refuse(ErrInvalid, "the authority's key is not sealed, or longer than %d bytes", authorityMax)
	case len(c.GetBundlePem()) == 0 || len(c.GetBundlePem()) > authorityMax:
		return refuse(ErrInvalid, "an authority bundle of %d bytes: want 1 to %d", len(c.GetBundlePem()), authorityMax)
	}
	f.Authority = Authority{c.GetClusterName(), string(c.GetSealedKey()), string(c.GetBundlePem()), f.Revision}
	f.did("cluster.authority", c.GetClusterName(), "")
	return nil
}

func authorityTo(a Authority) *catalogpb.Authority {
	if a == (Authority{}) {
		return nil
	}
	return &catalogpb.Authority{ClusterName: a.ClusterName, SealedKey: []byte(a.SealedKey), BundlePem: []byte(a.BundlePEM), Revision: a.Revision}
}

func authorityFrom(e *catalogpb.Authority) Authority {
	return Authority{ClusterName: e.GetClusterName(), SealedKey: string(e.GetSealedKey()), BundlePEM: string(e.GetBundlePem()), Revision: e.GetRevision()}
}
