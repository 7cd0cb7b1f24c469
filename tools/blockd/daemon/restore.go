package daemon

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"blockd.dev/internal/durable"
	"blockd.dev/raftmeta/catalog"
	"blockd.dev/raftmeta/group"
	"blockd.dev/raftmeta/pki"
)

// Restore makes the data directory that of a cluster of one node, with the state
// in a backup (BackupMeta). It is the directory of the node that is to be first, or an
// empty one, which becomes that of the node that made the backup; then keysFile
// names a copy of the cluster keys. What the directory had of the group is put
// aside. The other nodes join anew, with wiped directories, after they were removed.
func Restore(cfg Config, file io.ReadSeeker, keysFile string) (_ group.BackupHeader, err error) {
	h, err := group.VerifyBackup(file)
	if err != nil {
		return h, err
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return h, err
	}
	data, err := openDataDir(cfg.Data)
	if err != nil {
		return h, err
	}
	defer func() { err = errors.Join(err, data.close()) }()
	self := nodeIdentity{ID: h.Node, Cluster: h.Cluster}
	if _, serr := os.Stat(data.join(fileNode)); serr == nil {
		if self, err = data.loadIdentity(); err != nil {
			return h, err
		}
		self.Joining = nil
	}
	keys, err := data.keysFor(keysFile)
	if err != nil {
		return h, err
	}
	if _, err := data.putAside(); err != nil {
		return h, err
	}
	fsm := catalog.NewFSM()
	if _, err := group.Restore(memberConfig(data, self, cfg.API, fsm), file); err != nil {
		return h, errors.Join(err, os.RemoveAll(data.join(dirRaft)))
	}
	s := fsm.State()
	if n := s.NodeByID(parseID(self.ID)); n == nil && len(s.Nodes) > 0 {
		return h, errors.Join(fmt.Errorf("node %s is not in the backup, so it can't be the first; restore at a node that is, or into an empty directory", self.ID), os.RemoveAll(data.join(dirRaft)))
	}
	if err := data.saveIdentity(self); err != nil {
		return h, err
	}
	if err := data.certify(self, keys, s); err != nil {
		return h, err
	}
	return h, data.saveBrought("cluster.restore", fmt.Sprintf("from a backup of %s by node %s, up to index %d", timeText(h.Made), h.Node, h.Index))
}

// Recover makes the node's member of a group that has lost its majority for
// good a group of its own. What only the lost members had is lost. The other
// nodes join anew.
func Recover(cfg Config) (err error) {
	data, err := openDataDir(cfg.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, data.close()) }()
	self, err := data.loadIdentity()
	if err != nil {
		return err
	}
	if err := group.Recover(memberConfig(data, self, cfg.API, catalog.NewFSM())); err != nil {
		return err
	}
	return data.saveBrought("cluster.recover", "a cluster of one, after a majority was lost")
}

// memberConfig is for a member that is not in touch with others.
func memberConfig(data *dataDir, self nodeIdentity, api string, fsm *catalog.FSM) group.Config {
	return group.Config{Dir: data.join(dirRaft), Cluster: self.Cluster, NodeID: self.ID, Address: api, FSM: fsm, Bootstrap: true}
}

// keysFor returns the cluster keys of the directory, or of a copy of them.
func (d *dataDir) keysFor(copied string) (pki.Keyring, error) {
	path := filepath.Join(d.join(dirPKI), "cluster.keys")
	if copied != "" {
		path = copied
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return pki.Keyring{}, fmt.Errorf("the keys that secrets in the backup are sealed with: %w; name a copy of cluster.keys with --keys", err)
	}
	return pki.ParseKeyring(b)
}

// putAside renames the folder of the group to one that does not exist yet, and
// returns its name; "" when there was none.
func (d *dataDir) putAside() (string, error) {
	if _, err := os.Stat(d.join(dirRaft)); errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	for i := 1; ; i++ {
		to := d.join(fmt.Sprintf("%s.replaced-%d", dirRaft, i))
		if _, err := os.Lstat(to); errors.Is(err, os.ErrNotExist) {
			return to, errors.Join(os.Rename(d.join(dirRaft), to), durable.SyncDir(d.path))
		}
	}
}

// certify gives a node that has no certificate one, from the authority in s.
func (d *dataDir) certify(self nodeIdentity, keys pki.Keyring, s *catalog.State) error {
	files := pki.Files{Dir: d.join(dirPKI)}
	if err := os.MkdirAll(files.Dir, 0o700); err != nil {
		return err
	}
	has, err := files.Exists()
	if err != nil || has || s.Authority.SealedKey == "" {
		return errors.Join(err, files.SaveKeyring(keys))
	}
	ca, bundle, err := openAuthority(s.Authority, keys, self.Cluster)
	if err != nil {
		return err
	}
	cert, key, err := issue(ca, pki.Identity{Cluster: self.Cluster, Node: self.ID}, time.Now(), pki.NodeLife)
	if err != nil {
		return err
	}
	return files.Save(pki.Member{Certificate: cert, Key: key, Bundle: bundle, Keyring: keys})
}
