package group

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
	"golang.org/x/sys/unix"

	"blockd.dev/internal/durable"
)

// The folder of a member:
//
//	LOCK            held while a process has it open
//	member.json     who this is, see identity
//	HALTED          why the member must not be opened, if it must not
//	wal/            the log (raft-wal), and the term and vote (wal-meta.db)
//	snapshots/      the last two snapshots
const (
	fileLock     = "LOCK"
	fileIdentity = "member.json"
	fileHalted   = "HALTED"
	dirWAL       = "wal"
	segmentBytes = 16 << 20 // the log is allocated ahead by this much
	snapshotsMax = 2
)

// identity is what a folder was made for. It does not change; a new
// incarnation is a new identity.
type identity struct {
	Cluster     string `json:"cluster"`
	Node        string `json:"node"`
	Incarnation uint32 `json:"incarnation"`
}

// store is what Raft needs of a disk.
type store interface {
	raft.LogStore
	raft.StableStore
	raft.MonotonicLogStore
}

// storage is an open folder.
type storage struct {
	dir   string
	lock  *os.File
	db    *metadb.BoltMetaDB
	wal   *wal.WAL
	begun *begun // the log below store
	store *guarded
	snaps *raft.FileSnapshotStore
}

// openStorage locks cfg.Dir, which it makes if need be, and opens the log.
func openStorage(cfg *Config, log hclog.Logger) (_ *storage, err error) {
	dir := cfg.Dir
	s := &storage{dir: dir}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if err := os.MkdirAll(filepath.Join(dir, dirWAL), 0o700); err != nil {
		return nil, err
	}
	if s.lock, err = os.OpenFile(filepath.Join(dir, fileLock), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, err
	}
	if err := unix.Flock(int(s.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("%s is in use by another process; stop that blockd first", dir)
	}
	if why, err := os.ReadFile(filepath.Join(dir, fileHalted)); err == nil {
		return nil, fmt.Errorf("%w before: %s; see docs/RAFT.md, and then wipe %s and let the node join again", ErrHalted, why, dir)
	}
	if err := finishRotation(filepath.Join(dir, dirWAL), cfg.segmentBytes); err != nil {
		return nil, fmt.Errorf("the Raft log in %s can't be opened: %w", filepath.Join(dir, dirWAL), err)
	}
	s.db = &metadb.BoltMetaDB{}
	s.wal, err = wal.Open(filepath.Join(dir, dirWAL), wal.WithMetaStore(s.db), wal.WithLogger(log), wal.WithSegmentSize(cfg.segmentBytes))
	if err != nil {
		return nil, fmt.Errorf("the Raft log in %s can't be opened: %w", filepath.Join(dir, dirWAL), err)
	}
	var inner store = s.wal
	if cfg.wrapStore != nil {
		inner = cfg.wrapStore(inner)
	}
	s.begun = &begun{store: &ordered{store: &summed{inner}}}
	s.store = &guarded{store: s.begun}
	if s.snaps, err = raft.NewFileSnapshotStoreWithLogger(dir, snapshotsMax, log); err != nil {
		return nil, err
	}
	return s, s.dropReplaced()
}

// finishRotation gives the log a segment to append to, if the process before
// ended after it had filled the last one, and before it had begun the next.
// raft-wal 0.4 opens such a log, and then refuses every entry. What is written is what
// it writes itself at that point.
func finishRotation(dir string, segmentBytes int) error {
	db := &metadb.BoltMetaDB{}
	state, err := db.Load(dir)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // what was committed is synced
	if len(state.Segments) == 0 {
		return nil
	}
	tail := &state.Segments[len(state.Segments)-1]
	if !tail.SealTime.IsZero() {
		return nil
	}
	w, err := segment.NewFiler(dir, walfs.New()).RecoverTail(*tail)
	if err != nil {
		return nil // it is missing, which is normal, or damaged, which opening the log tells
	}
	defer func() { _ = w.Close() }() // nothing was written
	sealed, indexStart, err := w.Sealed()
	if err != nil || !sealed {
		return err
	}
	now, last := time.Now(), w.LastIndex()
	tail.SealTime, tail.MaxIndex, tail.IndexStart = now, last, indexStart
	state.Segments = append(state.Segments, types.SegmentInfo{ID: state.NextSegmentID, BaseIndex: last + 1, MinIndex: last + 1,
		SizeLimit: uint32(segmentBytes), Codec: tail.Codec, CreateTime: now})
	state.NextSegmentID++
	return db.CommitState(state)
}

func (s *storage) close() {
	if s.wal != nil {
		_ = s.wal.Close() // everything that was acknowledged is synced already
	}
	if s.db != nil {
		_ = s.db.Close()
	}
	if s.lock != nil {
		_ = s.lock.Close()
	}
}

// identity reads who the folder is of; ok is false when it is new.
func (s *storage) identity() (id identity, ok bool, err error) {
	text, err := os.ReadFile(filepath.Join(s.dir, fileIdentity))
	if errors.Is(err, fs.ErrNotExist) {
		return id, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &id)
	}
	if err != nil {
		return id, false, fmt.Errorf("%s: %w", filepath.Join(s.dir, fileIdentity), err)
	}
	return id, true, nil
}

func (s *storage) setIdentity(id identity) error {
	text, err := json.Marshal(id)
	if err != nil {
		return err
	}
	return s.put(fileIdentity, text)
}

// setHalted makes the folder one that is not opened again.
func (s *storage) setHalted(why error) error { return s.put(fileHalted, []byte(why.Error())) }

// put replaces a small file durably.
func (s *storage) put(name string, text []byte) error {
	return durable.Replace(filepath.Join(s.dir, name), text)
}

// ordered lets one caller at a time write to the log, and none read while it is
// compacted, which Raft's snapshots do in a goroutine of their own. raft-wal 0.4
// orders them itself, but by its code, of two writers that wait for a full segment to be
// rotated, the second may go on before the next rotation, which then seals the wrong segment.
type ordered struct {
	store
	writing sync.Mutex   // one writer at a time
	compact sync.RWMutex // held by DeleteRange alone
}

// StoreLogs is raft.LogStore's.
func (o *ordered) StoreLogs(logs []*raft.Log) error {
	o.compact.RLock()
	defer o.compact.RUnlock()
	o.writing.Lock()
	defer o.writing.Unlock()
	return o.store.StoreLogs(logs)
}

// StoreLog is StoreLogs of one.
func (o *ordered) StoreLog(log *raft.Log) error { return o.StoreLogs([]*raft.Log{log}) }

// DeleteRange is raft.LogStore's.
func (o *ordered) DeleteRange(low, high uint64) error {
	o.compact.Lock()
	defer o.compact.Unlock()
	return o.store.DeleteRange(low, high)
}

// GetLog is raft.LogStore's.
func (o *ordered) GetLog(index uint64, log *raft.Log) error {
	o.compact.RLock()
	defer o.compact.RUnlock()
	return o.store.GetLog(index, log)
}

// guarded makes an error of the disk final. The Raft library would try again,
// be elected and stand down in turns, or panic; a member whose log can't be written
// or read has to stop, and the data path of the same process to go on.
type guarded struct {
	store
	fail atomic.Pointer[func(error)] // set once Raft runs; before, Open reports errors
}

// StoreLogs returns errors: the library then gives up leading, or refuses the entries.
func (g *guarded) StoreLogs(logs []*raft.Log) error {
	err := g.store.StoreLogs(logs)
	if err != nil {
		g.failed("writing the log", err, false)
	}
	return err
}

// StoreLog is StoreLogs of one.
func (g *guarded) StoreLog(log *raft.Log) error { return g.StoreLogs([]*raft.Log{log}) }

// DeleteRange returns errors, and the library logs them.
func (g *guarded) DeleteRange(low, high uint64) error {
	err := g.store.DeleteRange(low, high)
	if err != nil {
		g.failed("compacting the log", err, false)
	}
	return err
}

// GetLog ends the calling goroutine when an entry that exists can't be read,
// since the library would panic. Entries that don't exist are no errors.
func (g *guarded) GetLog(index uint64, log *raft.Log) error {
	err := g.store.GetLog(index, log)
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		g.failed("reading the log", err, true)
	}
	return err
}

// Set ends the calling goroutine on errors, see GetLog.
func (g *guarded) Set(key, value []byte) error {
	err := g.store.Set(key, value)
	if err != nil {
		g.failed("writing the vote", err, true)
	}
	return err
}

// SetUint64 ends the calling goroutine on errors, see GetLog.
func (g *guarded) SetUint64(key []byte, value uint64) error {
	err := g.store.SetUint64(key, value)
	if err != nil {
		g.failed("writing the term", err, true)
	}
	return err
}

// failed reports err. With exit it ends the calling goroutine, one of the
// library's, whose deferred calls answer those who wait.
func (g *guarded) failed(doing string, err error, exit bool) {
	fail := g.fail.Load()
	if fail == nil {
		return
	}
	(*fail)(fmt.Errorf("%w: %s: %w; free or replace the disk, then start the node again", ErrStorage, doing, err))
	if exit {
		runtime.Goexit()
	}
}
