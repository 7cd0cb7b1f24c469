package catalog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	"blockd.dev/raftmeta/catalog/catalogpb"
)

// The writer of journals, as it was.

func fileHeader(magic string) []byte {
	b := append(make([]byte, 0, fileHeaderBytes), magic...)
	b = binary.LittleEndian.AppendUint32(b, journalVersion)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crcTable))
}

func appendRecord(dst []byte, revision uint64, payload []byte) []byte {
	start := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, revision)
	dst = append(dst, payload...)
	binary.LittleEndian.PutUint32(dst[start+4:], recordCRC(dst[start:]))
	return dst
}

// journalOf is a log of commands: where each record ends, and the hash of the
// state there.
func journalOf(t testing.TB, s *State, cmds ...*catalogpb.Command) (log []byte, ends []int, states []*State) {
	t.Helper()
	log = fileHeader(logMagic)
	ends, states = []int{len(log)}, []*State{s}
	for _, cmd := range cmds {
		s = mustApply(t, s, cmd)
		log = appendRecord(log, s.Revision, must(proto.Marshal(cmd)))
		ends, states = append(ends, len(log)), append(states, s)
	}
	return log, ends, states
}

func snapshotOf(s *State) []byte {
	return appendRecord(fileHeader(snapshotMagic), s.Revision, must(s.Marshal()))
}

// read makes a directory of the files and reads it.
func read(t testing.TB, files map[string][]byte) (*State, journalInfo, error) {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return readJournal(dir)
}

var journalCmds = []*catalogpb.Command{initCmd(), poolCmd(1, "default"), volumeCmd(10, "a"), mapCmd("a", "any", nil)}

// A log that is cut at any byte, as by a power failure during the last append, or has zeroes from
// there on, gives the state of the commands that are complete.
func TestLogCutAtEveryByte(t *testing.T) {
	full, ends, states := journalOf(t, &State{}, journalCmds...)
	try := func(name string, log []byte, complete int) {
		t.Helper()
		s, info, err := read(t, map[string][]byte{"log": log})
		if err != nil || s.Hash() != states[complete].Hash() || info.replayed != complete || info.tornBytes != int64(len(log)-ends[complete]) {
			t.Fatalf("%s: %v, %+v, want %d commands", name, err, info, complete)
		}
	}
	for n := fileHeaderBytes; n <= len(full); n++ {
		complete := 0
		for complete+1 < len(ends) && ends[complete+1] <= n {
			complete++
		}
		try(fmt.Sprintf("cut at %d", n), full[:n], complete)
		zeroed := append(bytes.Clone(full[:n]), make([]byte, 64)...)
		// A record whose last bytes are zero anyway may be complete.
		for complete+1 < len(ends) && ends[complete+1] <= len(zeroed) && bytes.Equal(zeroed[:ends[complete+1]], full[:ends[complete+1]]) {
			complete++
		}
		try(fmt.Sprintf("zeroes from %d", n), zeroed, complete)
	}
}

// A flipped bit is found, unless it could be the end of an unfinished record.
func TestCorruptionIsRefused(t *testing.T) {
	full, ends, states := journalOf(t, &State{}, journalCmds...)
	snap := snapshotOf(states[4])
	flip := func(b []byte, i int) []byte {
		b = bytes.Clone(b)
		b[i] ^= 0x10
		return b
	}
	for i := range ends[3] {
		if _, _, err := read(t, map[string][]byte{"log": flip(full, i)}); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("log with byte %d flipped: %v", i, err)
		}
	}
	empty := fileHeader(logMagic)
	for i := range snap {
		if _, _, err := read(t, map[string][]byte{"log": empty, "snapshot": flip(snap, i)}); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("snapshot with byte %d flipped: %v", i, err)
		}
	}
	if _, _, err := read(t, map[string][]byte{"snapshot": snap}); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("no log: %v", err)
	}
	if s, _, err := read(t, map[string][]byte{"snapshot": snap, "log": empty}); err != nil || s.Hash() != states[4].Hash() {
		t.Fatal(err)
	}
}

// The directory as a compaction that was cut short leaves it: a snapshot, and
// a log that begins before it.
func TestCompactionCutShort(t *testing.T) {
	full, _, states := journalOf(t, &State{}, journalCmds...)
	for i := range states {
		files := map[string][]byte{"log": full}
		if i > 0 {
			files["snapshot"] = snapshotOf(states[i])
		}
		if s, info, err := read(t, files); err != nil || s.Hash() != states[4].Hash() || info.replayed != 4-i {
			t.Fatalf("snapshot at revision %d: %+v, %v", i, info, err)
		}
	}
	gap, _, _ := journalOf(t, states[3], journalCmds[3])
	if _, _, err := read(t, map[string][]byte{"snapshot": snapshotOf(states[2]), "log": gap}); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("a missing command: %v", err)
	}
	if s, info, err := read(t, nil); err != nil || s.Revision != 0 || info != (journalInfo{}) {
		t.Fatalf("an empty directory: %v", err)
	}
}

func FuzzJournal(f *testing.F) {
	log, _, states := journalOf(f, &State{}, journalCmds...)
	f.Add(log, []byte{})
	f.Add(fileHeader(logMagic), snapshotOf(states[3]))
	f.Fuzz(func(t *testing.T, log, snapshot []byte) {
		files := map[string][]byte{"log": log}
		if len(snapshot) > 0 {
			files["snapshot"] = snapshot
		}
		s, _, err := read(t, files)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		if n := s.Check(); n != 0 {
			t.Fatalf("invariant %d", n)
		}
	})
}
