package catalog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"blockd.dev/raftmeta/catalog/catalogpb"
)

// The journal is what a blockd kept its catalog in before there was a Raft
// group: two files in one directory. It is only read any more, by Import.
//
//	log       16-byte header, then records; appended to and synced per command
//	snapshot  16-byte header, then one record; replaced by rename
//
//	header    +--------------------+------------+------------+
//	          | magic (8)          | version(4) | CRC32C (4) |   CRC of the 12 bytes before
//	          +--------------------+------------+------------+
//	record    +------------+------------+--------------+-----------+
//	          | length (4) | CRC32C (4) | revision (8) | payload   |   length of the payload; CRC of
//	          +------------+------------+--------------+-----------+   length, revision and payload
//
// Integers are little-endian. The payload of a log record is a
// catalogpb.Command, that of the snapshot a catalogpb.Snapshot; revision is the
// one that the state has after it. Revisions in the log grow by one. The log
// may start at or before the snapshot's revision (a stop between the two
// renames of a compaction); what the snapshot holds already is passed over.
//
// A record at the end of the log that is incomplete, or fails its CRC with
// nothing valid after it, was being written when the power failed, and was not
// acknowledged: it is left out. Anything else that does not check is
// corruption, and is refused.
const (
	logMagic        = "blkdclog"
	snapshotMagic   = "blkdcsnp"
	journalVersion  = 1
	fileHeaderBytes = 16
	recordHeadBytes = 16

	// recordMax bounds one command; snapshotMax one snapshot.
	recordMax   = 1 << 20
	snapshotMax = 1 << 30
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// ErrCorrupt is wrapped by the errors of Import for files that do not check.
var ErrCorrupt = errors.New("catalog is corrupt")

// journalInfo says what readJournal found.
type journalInfo struct {
	replayed  int   // commands applied from the log
	tornBytes int64 // bytes of an unfinished last record, which was left out
}

// journal is a directory with a catalog from before.
type journal struct{ dir string }

// readJournal returns the state in dir, and changes nothing there.
func readJournal(dir string) (*State, journalInfo, error) {
	j := &journal{dir: dir}
	s, err := j.readSnapshot()
	if err != nil {
		return nil, journalInfo{}, err
	}
	b, err := os.ReadFile(j.path("log"))
	switch {
	case errors.Is(err, fs.ErrNotExist) && s.Revision == 0:
		return s, journalInfo{}, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, journalInfo{}, j.corrupt("log", "it is missing, though there is a snapshot")
	case err != nil:
		return nil, journalInfo{}, fmt.Errorf("catalog: %w", err)
	}
	if err := checkHeader(b, logMagic); err != nil {
		return nil, journalInfo{}, j.corrupt("log", "%v", err)
	}
	return j.replay(s, b)
}

func (j *journal) path(name string) string { return filepath.Join(j.dir, name) }

func (j *journal) corrupt(name string, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s; restore the directory from a backup, or move it away to start with an empty catalog (volumes' data stays, but is not served)",
		ErrCorrupt, j.path(name), fmt.Sprintf(format, args...))
}

func (j *journal) readSnapshot() (*State, error) {
	b, err := os.ReadFile(j.path("snapshot"))
	if errors.Is(err, fs.ErrNotExist) {
		return &State{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", err)
	}
	if err := checkHeader(b, snapshotMagic); err != nil {
		return nil, j.corrupt("snapshot", "%v", err)
	}
	rev, payload, n := parseRecord(b[fileHeaderBytes:], snapshotMax)
	if n == 0 || fileHeaderBytes+n != len(b) {
		return nil, j.corrupt("snapshot", "its checksum does not match its %d bytes", len(b))
	}
	s, err := Unmarshal(payload)
	if err != nil {
		return nil, j.corrupt("snapshot", "%v", err)
	}
	if s.Revision != rev {
		return nil, j.corrupt("snapshot", "revision %d inside, %d outside", s.Revision, rev)
	}
	return s, nil
}

// replay applies the log b to s.
func (j *journal) replay(s *State, b []byte) (_ *State, info journalInfo, err error) {
	at, last := fileHeaderBytes, uint64(0)
	for at < len(b) {
		rev, payload, n := parseRecord(b[at:], recordMax)
		if n == 0 {
			if q := nextRecord(b, at+1, max(last, s.Revision)); q > 0 {
				return nil, info, j.corrupt("log", "the record at byte %d fails its checksum and a good one follows at %d", at, q)
			}
			info.tornBytes = int64(len(b) - at)
			return s, info, nil
		}
		if last != 0 && rev != last+1 || rev > s.Revision+1 {
			return nil, info, j.corrupt("log", "the record at byte %d has revision %d after %d", at, rev, max(last, s.Revision))
		}
		last = rev
		if rev == s.Revision+1 {
			cmd := &catalogpb.Command{}
			if err := proto.Unmarshal(payload, cmd); err != nil {
				return nil, info, j.corrupt("log", "the record at byte %d: %v", at, err)
			}
			next, _, err := s.Apply(cmd)
			if err != nil {
				return nil, info, j.corrupt("log", "the record at byte %d can't be applied: %v", at, err)
			}
			if next.Revision != rev {
				return nil, info, j.corrupt("log", "the record at byte %d repeats a request", at)
			}
			s = next
			info.replayed++
		}
		at += n
	}
	return s, info, nil
}

// nextRecord looks for a valid record newer than rev anywhere from byte at on.
// A random place passes by chance once in 2^32.
func nextRecord(b []byte, at int, rev uint64) int {
	for ; at+recordHeadBytes <= len(b); at++ {
		if r, _, n := parseRecord(b[at:], recordMax); n > 0 && r > rev {
			return at
		}
	}
	return 0
}

func checkHeader(b []byte, magic string) error {
	if len(b) < fileHeaderBytes {
		return fmt.Errorf("it has %d bytes, less than its header", len(b))
	}
	if string(b[:8]) != magic {
		return fmt.Errorf("it starts with %q and should with %q", b[:8], magic)
	}
	if binary.LittleEndian.Uint32(b[12:]) != crc32.Checksum(b[:12], crcTable) {
		return errors.New("its header's checksum does not match")
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != journalVersion {
		return fmt.Errorf("it has version %d and this blockd knows version %d", v, journalVersion)
	}
	return nil
}

func recordCRC(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:4], crcTable), crcTable, b[8:])
}

// parseRecord decodes the record at the start of b. n is its length in bytes,
// or 0 when there is no valid one. payload aliases b.
func parseRecord(b []byte, payloadMax int) (revision uint64, payload []byte, n int) {
	if len(b) < recordHeadBytes {
		return 0, nil, 0
	}
	size := int64(binary.LittleEndian.Uint32(b))
	if size > int64(payloadMax) || size > int64(len(b)-recordHeadBytes) {
		return 0, nil, 0
	}
	n = recordHeadBytes + int(size)
	revision = binary.LittleEndian.Uint64(b[8:])
	if revision == 0 || binary.LittleEndian.Uint32(b[4:]) != recordCRC(b[:n]) {
		return 0, nil, 0
	}
	return revision, b[recordHeadBytes:n], n
}

func syncDir(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("catalog: open %s: %w", dir, err)
	}
	if err := errors.Join(unix.Fsync(fd), unix.Close(fd)); err != nil {
		return fmt.Errorf("catalog: sync %s: %w", dir, err)
	}
	return nil
}
