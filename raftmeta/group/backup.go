package group

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
)

// A backup file:
//
//	| 8 magic | 4 length | BackupHeader, JSON |
//	| 4 length | so many bytes of the state |  again and again; length 0 ends it
//	| 32 SHA-256 of all before |
//
// Numbers are big-endian; the state is an image.
const (
	backupMagic  = "BDBACKU1"
	backupFormat = 1
	backupChunk  = 256 << 10
)

// BackupHeader says what a backup is of.
type BackupHeader struct {
	Format      int       `json:"format"`
	Cluster     string    `json:"cluster"`
	Incarnation uint32    `json:"incarnation"`
	Gate        uint32    `json:"gate"` // version of commands in use: the restoring binary understands it
	Index       uint64    `json:"index"`
	Term        uint64    `json:"term"`
	Node        string    `json:"node"` // where it was made
	Made        time.Time `json:"made"`
}

// Backup writes the state to w: everything acknowledged before the call, and
// perhaps some of what came later. It works on any member. Secrets in it are as the FSM keeps
// them; the cluster key is not in it.
func (g *Group) Backup(ctx context.Context, w io.Writer, now time.Time) (BackupHeader, error) {
	var h BackupHeader
	if err := g.Barrier(ctx); err != nil {
		return h, err
	}
	if err := g.begin(); err != nil {
		return h, err
	}
	defer g.pending.Done()
	snapshot := g.raft.Snapshot()
	if err := snapshot.Error(); err != nil {
		return h, fmt.Errorf("the state could not be written to the disk: %w", err)
	}
	_, state, err := snapshot.Open()
	if err != nil {
		return h, err
	}
	defer state.Close()
	r := bufio.NewReaderSize(state, backupChunk)
	head := bytes.Buffer{}
	i, err := readImageHead(io.TeeReader(r, &head))
	if err != nil {
		return h, err
	}
	h = BackupHeader{backupFormat, g.cfg.Cluster, i.meta.Incarnation, i.meta.Gate, i.index, i.term, g.cfg.NodeID, now.UTC()}
	return h, writeBackup(w, h, io.MultiReader(&head, r))
}

func writeBackup(w io.Writer, h BackupHeader, state io.Reader) error {
	sum := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, sum), backupChunk)
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	_, _ = out.WriteString(backupMagic) // a bufio.Writer keeps its first error until Flush
	_, _ = out.Write(binary.BigEndian.AppendUint32(nil, uint32(len(text))))
	_, _ = out.Write(text)
	chunk := make([]byte, backupChunk)
	for {
		n, err := io.ReadFull(state, chunk)
		if n > 0 {
			_, _ = out.Write(binary.BigEndian.AppendUint32(nil, uint32(n)))
			_, _ = out.Write(chunk[:n])
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	_, _ = out.Write(make([]byte, 4))
	if err := out.Flush(); err != nil {
		return err
	}
	_, err = w.Write(sum.Sum(nil))
	return err
}

// backupReader reads the state out of a backup. It returns io.EOF only after
// the checksum was found right.
type backupReader struct {
	r    *bufio.Reader
	sum  hash.Hash
	left uint32 // of the chunk
	end  bool
}

// ReadBackup reads the header of a backup, and returns a reader of its state,
// whose last Read returns an error that wraps ErrBackup when the file is damaged or cut short.
func ReadBackup(r io.Reader) (BackupHeader, io.Reader, error) {
	var h BackupHeader
	b := &backupReader{r: bufio.NewReaderSize(r, backupChunk), sum: sha256.New()}
	head := make([]byte, len(backupMagic)+4)
	if err := b.full(head); err != nil {
		return h, nil, err
	}
	if string(head[:8]) != backupMagic {
		return h, nil, fmt.Errorf("%w: it does not begin as one", ErrBackup)
	}
	n := binary.BigEndian.Uint32(head[8:])
	if n > 64<<10 {
		return h, nil, fmt.Errorf("%w: a header of %d bytes", ErrBackup, n)
	}
	text := make([]byte, n)
	if err := b.full(text); err != nil {
		return h, nil, err
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return h, nil, fmt.Errorf("%w: its header: %w", ErrBackup, err)
	}
	if h.Format != backupFormat {
		return h, nil, fmt.Errorf("%w: format %d, and this blockd knows %d; use a newer release", ErrBackup, h.Format, backupFormat)
	}
	return h, b, nil
}

// ReadBackupFSM returns a reader of what the FSM has in a backup. It ends as that of ReadBackup does.
func ReadBackupFSM(r io.Reader) (io.Reader, error) {
	_, state, err := ReadBackup(r)
	if err == nil {
		_, err = readImageHead(state)
	}
	if err != nil {
		return nil, err
	}
	return state, nil
}

func (b *backupReader) full(p []byte) error {
	if _, err := io.ReadFull(b.r, p); err != nil {
		return fmt.Errorf("%w: it is cut short", ErrBackup)
	}
	b.sum.Write(p)
	return nil
}

// Read implements io.Reader.
func (b *backupReader) Read(p []byte) (int, error) {
	if b.end {
		return 0, io.EOF
	}
	if b.left == 0 {
		var size [4]byte
		if err := b.full(size[:]); err != nil {
			return 0, err
		}
		b.left = binary.BigEndian.Uint32(size[:])
		if b.left > backupChunk {
			return 0, fmt.Errorf("%w: a piece of %d bytes", ErrBackup, b.left)
		}
	}
	if b.left == 0 {
		want := b.sum.Sum(nil)
		got := make([]byte, len(want))
		if err := b.full(got); err != nil {
			return 0, err
		}
		if !bytes.Equal(got, want) {
			return 0, fmt.Errorf("%w: its checksum is wrong", ErrBackup)
		}
		b.end = true
		return 0, io.EOF
	}
	p = p[:min(len(p), int(b.left))]
	if err := b.full(p); err != nil {
		return 0, err
	}
	b.left -= uint32(len(p))
	return len(p), nil
}

// VerifyBackup reads all of a backup and checks it.
func VerifyBackup(r io.Reader) (BackupHeader, error) {
	h, state, err := ReadBackup(r)
	if err == nil {
		_, err = io.Copy(io.Discard, state)
	}
	return h, err
}

// Restore makes a new group of one node from a backup, in cfg.Dir, which has no
// member in it. It is of a new incarnation, so that members of the old group,
// should some live on, can't mix with it: wipe them and let them join anew.
// cfg.FSM is not used any more afterwards: Open the folder with another. The file is read twice.
func Restore(cfg Config, file io.ReadSeeker) (BackupHeader, error) {
	if err := cfg.Validate(); err != nil {
		return BackupHeader{}, err
	}
	h, err := VerifyBackup(file)
	if err != nil {
		return h, err
	}
	switch max := cfg.FSM.MaxVersion(); {
	case h.Gate > max:
		return h, fmt.Errorf("%w: the backup uses version %d of commands, and this blockd understands %d", ErrTooOld, h.Gate, max)
	case h.Cluster != cfg.Cluster:
		return h, fmt.Errorf("%w: it is of cluster %q, and this is %q", ErrBackup, h.Cluster, cfg.Cluster)
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, fileIdentity)); err == nil {
		return h, fmt.Errorf("%s has a member in it already; name an empty folder", cfg.Dir)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return h, err
	}
	_, state, err := ReadBackup(file)
	if err != nil {
		return h, err
	}
	return h, rebuild(cfg, func(g *Group, rc *raft.Config) error {
		if err := g.machine.Restore(io.NopCloser(state)); err != nil {
			return err
		}
		index, term := g.machine.position()
		// Elections of the new group are in later terms than the state.
		if err := g.storage.store.SetUint64([]byte("CurrentTerm"), term+1); err != nil {
			return err
		}
		sink, err := g.storage.snaps.Create(raft.SnapshotVersionMax, index, term, g.onlySelf(), index, g.trans)
		if err != nil {
			return err
		}
		return g.machine.image().Persist(sink)
	})
}

// Recover makes a group of this node alone out of one that has lost its
// majority for good. What only the lost members had is lost, and what this
// one has takes effect, whether a majority had it or not. The group is of a
// new incarnation, see Restore. No other process has cfg.Dir open.
func Recover(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(cfg.Dir, fileIdentity)); err != nil {
		return fmt.Errorf("there is no member in %s to recover from: %w", cfg.Dir, err)
	}
	return rebuild(cfg, func(g *Group, rc *raft.Config) error {
		s := g.storage
		return raft.RecoverCluster(rc, g.machine, s.store, s.store, s.snaps, g.trans, g.onlySelf())
	})
}

// rebuild opens a folder for build, which writes a snapshot of the state reborn, and
// then makes the folder one of that incarnation. Cut short, it can be done again.
func rebuild(cfg Config, build func(*Group, *raft.Config) error) error {
	cfg = cfg.withDefaults()
	logger := libraryLogger(cfg.Events)
	s, err := openStorage(&cfg, logger)
	if err != nil {
		return err
	}
	defer s.close()
	g := &Group{cfg: cfg, storage: s}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	defer g.cancel()
	var known bool
	if g.id, known, err = s.identity(); err != nil {
		return err
	}
	if known && (g.id.Cluster != cfg.Cluster || g.id.Node != cfg.NodeID) {
		return fmt.Errorf("%s belongs to node %s of cluster %s", cfg.Dir, g.id.Node, g.id.Cluster)
	}
	g.id.Cluster, g.id.Node = cfg.Cluster, cfg.NodeID
	g.machine = newMachine(cfg.FSM, g.id, cfg.Events)
	g.machine.reborn = true
	defer g.machine.hashes.working.Wait()
	g.stream = newStream(g)
	g.trans = newTransport(&raft.NetworkTransportConfig{Stream: g.stream, MaxPool: 1, Timeout: time.Second, Logger: logger}, cfg.beat(), s.begun, g.running.Load)
	defer func() { _ = g.trans.Close() }()
	rc := g.raftConfig(logger)
	if err := build(g, rc); err != nil {
		return err
	}
	_, was := g.machine.incarnation()
	g.id.Incarnation = was + 1
	return s.setIdentity(g.id)
}
