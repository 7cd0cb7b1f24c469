package catalog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"blockd.dev/raftmeta/catalog/catalogpb"
)

// importChunk is how much of an imported state one command carries, in bytes,
// and importPartsMax how many there may be: 256 MiB.
const (
	importChunk    = 512 << 10
	importPartsMax = 512
)

// ImportInfo says what Import found.
type ImportInfo struct {
	Revision  uint64 // of the catalog that was taken over; 0 when there was none
	TornBytes int64  // of an unfinished last change, which was left out
	Kept      string // where the old files are now
}

// Import takes over the catalog that a blockd without a Raft group has kept in
// the directory dir, and renames the directory to dir.imported. Nothing happens
// when there is none. It may be cut short anywhere, and called again. now is the time
// of the commands, in nanoseconds since 1970. The old files still have secrets in the clear;
// the state does not.
func (c *Catalog) Import(ctx context.Context, dir string, nowUnixNano int64) (ImportInfo, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return ImportInfo{}, nil
	}
	kept := strings.TrimRight(dir, "/") + ".imported"
	if _, err := os.Lstat(kept); err == nil {
		return ImportInfo{}, fmt.Errorf("there are both %s and %s: a catalog was imported before; move the one away that is not wanted", dir, kept)
	}
	old, info, err := readJournal(dir)
	if err != nil {
		return ImportInfo{}, err
	}
	if err := c.takeOver(ctx, dir, old, nowUnixNano); err != nil {
		return ImportInfo{}, err
	}
	if err := os.Rename(dir, kept); err != nil {
		return ImportInfo{}, fmt.Errorf("catalog: %w", err)
	}
	return ImportInfo{Revision: old.Revision, TornBytes: info.tornBytes, Kept: kept}, syncDir(filepath.Dir(kept))
}

// takeOver puts the state old into the group, unless that was done before.
func (c *Catalog) takeOver(ctx context.Context, dir string, old *State, nowUnixNano int64) error {
	if err := c.Barrier(ctx); err != nil {
		return failed(err)
	}
	switch have := c.State().ClusterID; {
	case old.ClusterID.IsZero(), have == old.ClusterID:
		return nil // nothing in it, or cut short before the directory was renamed
	case !have.IsZero():
		return fmt.Errorf("the catalog in %s is of cluster %s, and this node is of cluster %s; move it away", dir, old.ClusterID, have)
	}
	sealed, err := c.sealState(old)
	if err != nil {
		return err
	}
	b, err := sealed.Marshal()
	if err != nil {
		return err
	}
	chunks := slices.Collect(slices.Chunk(b, importChunk))
	for i, chunk := range chunks {
		_, err := c.DoContext(ctx, &catalogpb.Command{Version: CommandVersion, TimeUnixNano: nowUnixNano, Actor: "blockd", Source: "local",
			Kind: &catalogpb.Command_Import{Import: &catalogpb.Import{Part: uint32(i), Parts: uint32(len(chunks)), Chunk: chunk}}})
		if err != nil {
			return fmt.Errorf("taking over the catalog in %s: %w", dir, err)
		}
	}
	return nil
}

// sealState returns s with the secrets sealed. What requests about hosts were
// answered is left out: their digests cover secrets in the clear.
func (c *Catalog) sealState(s *State) (*State, error) {
	next := *s
	next.Hosts = slices.Clone(s.Hosts)
	for i := range next.Hosts {
		h := &next.Hosts[i]
		if h.hasPlaintext() {
			h.SecretsRevision = s.Revision
		}
		if err := h.seal(c.keys()); err != nil {
			return nil, failed(err)
		}
	}
	aboutHosts := map[uint64]bool{}
	for i := range s.Audits {
		aboutHosts[s.Audits[i].Revision] = strings.HasPrefix(s.Audits[i].Action, "host.")
	}
	next.answers = slices.DeleteFunc(slices.Clone(s.answers), func(a answer) bool { return aboutHosts[a.revision] })
	return &next, nil
}

// importPart takes a part of a state, and with the last one the state.
func (f *fold) importPart(c *catalogpb.Import) (ID, error) {
	switch {
	case !f.ClusterID.IsZero():
		return ID{}, refuse(ErrExists, "the cluster is initialised already")
	case c.GetParts() == 0 || c.GetParts() > importPartsMax || c.GetPart() >= c.GetParts() || len(c.GetChunk()) > importChunk:
		return ID{}, refuse(ErrInvalid, "part %d of %d with %d bytes: at most %d parts of %d bytes", c.GetPart(), c.GetParts(), len(c.GetChunk()), importPartsMax, importChunk)
	case c.GetPart() != 0 && int(c.GetPart()) != len(f.importing):
		return ID{}, refuse(ErrConflict, "part %d of an import, and %d is next", c.GetPart(), len(f.importing))
	}
	parts := append(slices.Clip(f.importing[:c.GetPart()]), string(c.GetChunk()))
	f.did("catalog.import", fmt.Sprintf("part %d of %d", c.GetPart()+1, c.GetParts()), "")
	if c.GetPart()+1 < c.GetParts() {
		f.importing = parts
		return ID{}, nil
	}
	s, err := Unmarshal([]byte(strings.Join(parts, "")))
	if err != nil {
		return ID{}, refuse(ErrInvalid, "the state can't be taken over: %v", err)
	}
	plain := slices.ContainsFunc(s.Hosts, func(h Host) bool { return h.hasPlaintext() })
	if s.ClusterID.IsZero() || s.importing != nil || plain {
		return ID{}, refuse(ErrInvalid, "the state can't be taken over: it has no cluster, is in parts itself, or has secrets that are not sealed")
	}
	from, version := s.Revision, f.version
	if s.version > version {
		return ID{}, refuse(ErrInvalid, "the state can't be taken over: it is of version %d, and the command of version %d", s.version, version)
	}
	s.Revision = max(f.Revision, s.Revision+1)
	*f.State = *s
	f.upgrade(version)
	f.did("catalog.import", s.ClusterID.String(), "from revision %d", from)
	return s.ClusterID, nil
}
