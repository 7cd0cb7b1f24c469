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

// The journal is two files in one directory.
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
// acknowledged: it is cut off, and kept in a file called log.torn. Anything
// else that does not check is corruption, and is refused.
const (
	logMagic        = "blkdclog"
	snapshotMagic   = "blkdcsnp"
	journalVersion  = 1
	fileHeaderBytes = 16
	recordHeadBytes = 16

	// recordMax bounds one command; snapshotMax one snapshot.
	recordMax   = 1 << 20
	snapshotMax = 1 << 30

	// compactBytes is the size of the log that makes a snapshot worthwhile:
	// replaying 4 MiB takes well under a second.
	compactBytes = 4 << 20
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// ErrCorrupt is wrapped by the errors of Open for files that do not check.
var ErrCorrupt = errors.New("catalog is corrupt")

// JournalInfo says what Open found.
type JournalInfo struct {
	Replayed  int   // commands applied from the log
	TornBytes int64 // bytes of an unfinished last record that were cut off
}

// journal is the durable form of a catalog. It is not safe for concurrent use.
type journal struct {
	dir          string
	log          *os.File
	logBytes     int64
	compactBytes int64
	failed       error             // after a failed write or sync nothing more is written
	step         func(name string) // tests look at the directory between the steps
}

// openJournal reads the directory, creating it when there is none, and returns
// the state in it.
func openJournal(dir string) (*journal, *State, JournalInfo, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, JournalInfo{}, fmt.Errorf("catalog: %w", err)
	}
	j := &journal{dir: dir, compactBytes: compactBytes, step: func(string) {}}
	state, err := j.readSnapshot()
	if err != nil {
		return nil, nil, JournalInfo{}, err
	}
	state, info, err := j.openLog(state)
	if err != nil {
		return nil, nil, JournalInfo{}, err
	}
	return j, state, info, nil
}

// readJournal returns the state in dir, and changes nothing there.
func readJournal(dir string) (*State, JournalInfo, error) {
	j := &journal{dir: dir}
	s, err := j.readSnapshot()
	if err != nil {
		return nil, JournalInfo{}, err
	}
	b, err := os.ReadFile(j.path("log"))
	switch {
	case errors.Is(err, fs.ErrNotExist) && s.Revision == 0:
		return s, JournalInfo{}, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, JournalInfo{}, j.corrupt("log", "it is missing, though there is a snapshot")
	case err != nil:
		return nil, JournalInfo{}, fmt.Errorf("catalog: %w", err)
	}
	if err := checkHeader(b, logMagic); err != nil {
		return nil, JournalInfo{}, j.corrupt("log", "%v", err)
	}
	s, _, info, err := j.replay(s, b)
	return s, info, err
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

func (j *journal) openLog(s *State) (*State, JournalInfo, error) {
	b, err := os.ReadFile(j.path("log"))
	if errors.Is(err, fs.ErrNotExist) {
		if s.Revision != 0 {
			return nil, JournalInfo{}, j.corrupt("log", "it is missing, though there is a snapshot")
		}
		return s, JournalInfo{}, j.replaceLog()
	}
	if err != nil {
		return nil, JournalInfo{}, fmt.Errorf("catalog: %w", err)
	}
	if err := checkHeader(b, logMagic); err != nil {
		return nil, JournalInfo{}, j.corrupt("log", "%v", err)
	}
	s, end, info, err := j.replay(s, b)
	if err != nil {
		return nil, info, err
	}
	f, err := os.OpenFile(j.path("log"), os.O_RDWR, 0)
	if err != nil {
		return nil, info, fmt.Errorf("catalog: %w", err)
	}
	if info.TornBytes > 0 {
		err = errors.Join(writeFile(j.path("log.torn"), b[end:]), f.Truncate(int64(end)), f.Sync())
	}
	if err == nil {
		_, err = f.Seek(int64(end), 0)
	}
	if err != nil {
		return nil, info, fmt.Errorf("catalog: %w", errors.Join(err, f.Close()))
	}
	j.log, j.logBytes = f, int64(end)
	return s, info, nil
}

// replay applies the log b to s. end is where the valid part ends.
func (j *journal) replay(s *State, b []byte) (_ *State, end int, info JournalInfo, err error) {
	at, last := fileHeaderBytes, uint64(0)
	for at < len(b) {
		rev, payload, n := parseRecord(b[at:], recordMax)
		if n == 0 {
			if q := nextRecord(b, at+1, max(last, s.Revision)); q > 0 {
				return nil, 0, info, j.corrupt("log", "the record at byte %d fails its checksum and a good one follows at %d", at, q)
			}
			info.TornBytes = int64(len(b) - at)
			return s, at, info, nil
		}
		if last != 0 && rev != last+1 || rev > s.Revision+1 {
			return nil, 0, info, j.corrupt("log", "the record at byte %d has revision %d after %d", at, rev, max(last, s.Revision))
		}
		last = rev
		if rev == s.Revision+1 {
			cmd := &catalogpb.Command{}
			if err := proto.Unmarshal(payload, cmd); err != nil {
				return nil, 0, info, j.corrupt("log", "the record at byte %d: %v", at, err)
			}
			next, _, err := s.Apply(cmd)
			if err != nil {
				return nil, 0, info, j.corrupt("log", "the record at byte %d can't be applied: %v", at, err)
			}
			if next.Revision != rev {
				return nil, 0, info, j.corrupt("log", "the record at byte %d repeats a request", at)
			}
			s = next
			info.Replayed++
		}
		at += n
	}
	return s, at, info, nil
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

func fileHeader(magic string) []byte {
	b := append(make([]byte, 0, fileHeaderBytes), magic...)
	b = binary.LittleEndian.AppendUint32(b, journalVersion)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crcTable))
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

func appendRecord(dst []byte, revision uint64, payload []byte) []byte {
	start := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, revision)
	dst = append(dst, payload...)
	binary.LittleEndian.PutUint32(dst[start+4:], recordCRC(dst[start:]))
	return dst
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

// append makes the command durable. After an error nothing is known about what
// is on the disk, and every later call fails.
func (j *journal) append(revision uint64, cmd *catalogpb.Command) error {
	if j.failed != nil {
		return j.failed
	}
	payload, err := proto.Marshal(cmd)
	if err != nil {
		return refuse(ErrInvalid, "command can't be encoded: %v", err)
	}
	if len(payload) > recordMax {
		return refuse(ErrInvalid, "command of %d bytes: at most %d", len(payload), recordMax)
	}
	rec := appendRecord(nil, revision, payload)
	if _, err := j.log.Write(rec); err != nil {
		return j.fail(err)
	}
	j.step("append")
	if err := j.log.Sync(); err != nil {
		return j.fail(err)
	}
	j.logBytes += int64(len(rec))
	return nil
}

// fail makes an error of the disk final: after a failed sync the kernel may
// have dropped what it could not write.
func (j *journal) fail(err error) error {
	j.failed = refuse(ErrFailed, "the catalog in %s can't be written any more: %v; repair the file system and restart blockd", j.dir, err)
	return j.failed
}

// compact writes s as the snapshot and starts an empty log.
func (j *journal) compact(s *State) error {
	if j.failed != nil {
		return j.failed
	}
	payload, err := s.Marshal()
	if err != nil {
		return err
	}
	b := appendRecord(fileHeader(snapshotMagic), s.Revision, payload)
	if err := j.replaceFile("snapshot", b); err != nil {
		return j.fail(err)
	}
	if err := j.replaceLog(); err != nil {
		return j.fail(err)
	}
	return nil
}

// replaceLog starts an empty log.
func (j *journal) replaceLog() error {
	if err := j.replaceFile("log", fileHeader(logMagic)); err != nil {
		return err
	}
	f, err := os.OpenFile(j.path("log"), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	if _, err := f.Seek(fileHeaderBytes, 0); err != nil {
		return fmt.Errorf("catalog: %w", errors.Join(err, f.Close()))
	}
	if j.log != nil {
		err = j.log.Close()
	}
	j.log, j.logBytes = f, fileHeaderBytes
	return err
}

// replaceFile puts b in the place of a file, durably and at once.
func (j *journal) replaceFile(name string, b []byte) error {
	tmp := j.path(name + ".new")
	if err := writeFile(tmp, b); err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	j.step("write " + name)
	if err := os.Rename(tmp, j.path(name)); err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	j.step("rename " + name)
	return syncDir(j.dir)
}

func writeFile(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
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

func (j *journal) close() error {
	if j.log == nil {
		return nil
	}
	err := j.log.Close()
	j.log = nil
	return err
}
