package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"blockd.dev/internal/durable"
	"blockd.dev/raftmeta/pki"
)

// Names within the data directory.
const (
	fileNode = "node.json" // nodeIdentity
	dirPKI   = "pki"       // pki.Files
	// fileIncarnation counts the starts of the node; it belongs to node.json.
	fileIncarnation = "incarnation"
	dirRaft         = "raft"         // group.Config.Dir
	dirOldRaft      = "raft.left"    // what a node was before it joined a cluster
	fileSocket      = "control.sock" // the control API for this machine
	dirCatalog      = "catalog"      // the catalog of a blockd before it had a Raft group
)

// nodeIdentity is what a node knows of itself before it can read the catalog.
type nodeIdentity struct {
	ID      string `json:"id"`      // of the node, for ever
	Cluster string `json:"cluster"` // of the Raft group, as certificates spell it
	// Joining is set until the node is a member of the cluster that has admitted it.
	Joining *joining `json:"joining,omitempty"`
}

// joining is how a node that was admitted becomes a member.
type joining struct {
	Incarnation uint32            `json:"incarnation"`
	Members     map[string]string `json:"members"` // id to address
}

// loadIdentity reads who the node is, and decides it at the first start.
func (d *dataDir) loadIdentity() (nodeIdentity, error) {
	var n nodeIdentity
	b, err := os.ReadFile(d.join(fileNode))
	if errors.Is(err, fs.ErrNotExist) {
		n = nodeIdentity{ID: newID().String(), Cluster: newID().String()}
		return n, d.saveIdentity(n)
	}
	if err == nil {
		err = json.Unmarshal(b, &n)
	}
	if err == nil && (n.ID == "" || n.Cluster == "") {
		err = errors.New("it lacks the id of the node or of the cluster")
	}
	if err != nil {
		return n, fmt.Errorf("who this node is: %s: %w", d.join(fileNode), err)
	}
	return n, nil
}

func (d *dataDir) saveIdentity(n nodeIdentity) error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	return durable.Replace(d.join(fileNode), append(b, '\n'))
}

// loadKeys reads the keys that secrets in the catalog are sealed with, and
// makes them at the first start.
func (d *dataDir) loadKeys() (pki.Keyring, error) {
	files := pki.Files{Dir: d.join(dirPKI)}
	b, err := os.ReadFile(filepath.Join(files.Dir, "cluster.keys"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := os.MkdirAll(files.Dir, 0o700); err != nil {
			return pki.Keyring{}, err
		}
		if _, err := os.Stat(d.join(dirRaft)); err == nil {
			return pki.Keyring{}, fmt.Errorf("%s is gone, and secrets in %s are sealed with it; bring it back from where it was kept", filepath.Join(files.Dir, "cluster.keys"), d.path)
		}
		k := pki.NewKeyring()
		return k, errors.Join(files.SaveKeyring(k), durable.SyncDir(d.path))
	case err != nil:
		return pki.Keyring{}, err
	}
	return pki.ParseKeyring(b)
}
