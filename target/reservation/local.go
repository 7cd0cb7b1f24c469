package reservation

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// A file of Local: magic (8), volume ID (16), an encoded State, and the
// CRC32C of all before it (4, big-endian).
const (
	fileMagic    = "BDRESV\x00\x01"
	fileSuffix   = ".reservations"
	tempSuffix   = ".tmp"
	fileOverhead = len(fileMagic) + len(VolumeID{}) + 4
	// fileBytesMax is above the largest that can be written.
	fileBytesMax = fileOverhead + 16 + (MaxRegistrants+1)*(8+identityBytes+MaxNameBytes)
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Local is a Backend for one node: one file per volume in a directory. The
// file holds what State.AfterPowerLoss leaves, so that a volume without
// persistence has none, and a restart needs no rule of its own.
//
// A file is replaced whole: written beside, synced, renamed, and the directory
// synced, all before Apply answers. A crash leaves the old or the new table.
type Local struct {
	dir  string
	disk disk

	mu struct {
		sync.Mutex
		volumes map[VolumeID]*localVolume
	}
}

var errRemoved = errors.New("the volume was deleted")

type localVolume struct {
	*Volume
	mu     sync.Mutex // held over Apply
	saved  []byte     // what the file holds; nil for no file
	broken error      // set once it is unknown what the file holds
}

// OpenLocal opens the tables kept in dir, which is made if there is none. One
// process at a time may have it open. Tables are read as volumes are asked
// for, so that a damaged one stops only its own volume.
func OpenLocal(dir string) (*Local, error) {
	if err := makeDir(osDisk{}, filepath.Clean(dir)); err != nil {
		return nil, fmt.Errorf("reservations: make directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reservations: list directory: %w", err)
	}
	for _, e := range entries {
		// A crash before the rename left it; it was never acknowledged.
		if strings.HasSuffix(e.Name(), fileSuffix+tempSuffix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, fmt.Errorf("reservations: remove unfinished file: %w", err)
			}
		}
	}
	l := &Local{dir: dir, disk: osDisk{}}
	l.mu.volumes = make(map[VolumeID]*localVolume)
	return l, nil
}

// makeDir makes dir and what is missing above it, durably: files synced in a
// folder whose own entry is lost would be lost with it.
func makeDir(d disk, dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, os.ErrNotExist) {
		if err = makeDir(d, filepath.Dir(dir)); err == nil {
			err = os.Mkdir(dir, 0o700)
		}
	}
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.SyncDir(filepath.Dir(dir))
}

func (l *Local) path(id VolumeID) string { return filepath.Join(l.dir, id.String()+fileSuffix) }

func (l *Local) get(id VolumeID) (*localVolume, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if v := l.mu.volumes[id]; v != nil {
		return v, nil
	}
	v := &localVolume{}
	b, err := readFile(l.path(id))
	switch {
	case errors.Is(err, os.ErrNotExist):
		v.Volume = NewVolume(nil)
	case err != nil:
		return nil, fmt.Errorf("reservations of volume %s: %w", id, err)
	default:
		s, err := decodeFile(b, id)
		if err != nil {
			return nil, fmt.Errorf("reservations of volume %s: file %s: %w; the volume is not served, since hosts may be fenced from it: "+
				"bring the file back from a backup, or remove it to drop all registrations", id, l.path(id), err)
		}
		v.Volume, v.saved = NewVolume(s.AfterPowerLoss()), b
	}
	l.mu.volumes[id] = v
	return v, nil
}

// Volume implements Backend.
func (l *Local) Volume(id VolumeID) (*Volume, error) {
	v, err := l.get(id)
	if err != nil {
		return nil, err
	}
	return v.Volume, nil
}

// Apply implements Backend. It waits for the disk, whatever ctx says, and for
// watchers. An error means that the command had no effect, unless it says
// otherwise.
func (l *Local) Apply(ctx context.Context, id VolumeID, c *Command) (Result, error) {
	v, err := l.get(id)
	if err != nil {
		return Result{}, err
	}
	res, change, err := l.apply(v, id, c)
	if err != nil {
		return Result{}, fmt.Errorf("reservations of volume %s: %w", id, err)
	}
	if err := change.Wait(ctx); err != nil {
		return Result{}, fmt.Errorf("reservations of volume %s: %w", id, err)
	}
	return res, nil
}

func (l *Local) apply(v *localVolume, id VolumeID, c *Command) (Result, *Change, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.broken != nil {
		return Result{}, nil, v.broken
	}
	s := v.State()
	next, res := s.Apply(c)
	if next != s {
		if err := l.save(v, id, next); err != nil {
			return Result{}, nil, err
		}
	}
	return res, publish(v.Volume, s, next, &res), nil
}

// save makes the file hold what a power loss would leave of s.
func (l *Local) save(v *localVolume, id VolumeID, s *State) error {
	b, err := encodeFile(s, id)
	if err != nil {
		return err
	}
	if bytes.Equal(b, v.saved) {
		return nil
	}
	path := l.path(id)
	if b == nil {
		err = l.disk.Remove(path)
	} else {
		if err := l.disk.WriteSynced(path+tempSuffix, b); err != nil {
			return fmt.Errorf("write: %w", err) // the old file is whole, and stays
		}
		err = l.disk.Rename(path+tempSuffix, path)
	}
	if err == nil {
		err = l.disk.SyncDir(l.dir)
	}
	if err != nil {
		v.broken = fmt.Errorf("frozen until a restart, because an earlier change may or may not be on disk: %w", err)
		return fmt.Errorf("replace the file (the change may come back after a restart): %w", err)
	}
	v.saved = b
	return nil
}

// Remove implements Backend.
func (l *Local) Remove(id VolumeID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if v := l.mu.volumes[id]; v != nil {
		// A command that found the volume before must not bring the file back.
		v.mu.Lock()
		v.broken = errRemoved
		v.mu.Unlock()
		delete(l.mu.volumes, id)
	}
	err := l.disk.Remove(l.path(id))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = l.disk.SyncDir(l.dir)
	}
	if err != nil {
		return fmt.Errorf("reservations of volume %s: remove: %w", id, err)
	}
	return nil
}

// encodeFile returns the file for s, or nil when none is needed.
func encodeFile(s *State, id VolumeID) ([]byte, error) {
	if !s.Persist {
		return nil, nil
	}
	b := append([]byte(fileMagic), id[:]...)
	b, err := s.AfterPowerLoss().AppendBinary(b)
	if err != nil {
		return nil, err
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// decodeFile reads a file of volume id.
func decodeFile(b []byte, id VolumeID) (*State, error) {
	if len(b) < fileOverhead {
		return nil, fmt.Errorf("%w: %d bytes are too few", ErrDamaged, len(b))
	}
	if string(b[:len(fileMagic)]) != fileMagic {
		return nil, fmt.Errorf("%w: wrong magic", ErrDamaged)
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return nil, fmt.Errorf("%w: checksum differs", ErrDamaged)
	}
	body = body[len(fileMagic):]
	if VolumeID(body[:16]) != id {
		return nil, fmt.Errorf("%w: belongs to volume %s", ErrDamaged, VolumeID(body[:16]))
	}
	return DecodeState(body[16:])
}
