package catalog

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"blockd.dev/raftmeta/catalog/catalogpb"
	"blockd.dev/raftmeta/extmap"
)

// writeRelease has this version write testdata/release-NAME.gz, which later ones
// are held to; scripts/landed.sh does it.
var writeRelease = flag.String("release", "", "write what this version answers as testdata/release-`NAME`.gz")

// A file of a release has random histories, one after the other: what every
// command was answered, the hash of the state at the end, and of some the
// snapshot. It is a gzip of records, each its length in 4 bytes, big-endian, and the bytes:
//
//	command, answer, ..., nothing, hash, snapshot or nothing
const (
	releaseHistories = 120
	releaseSnapshots = 6 // one of so many histories
)

// TestReleases: what earlier releases answered to commands is what this one
// answers, to the letter, and their snapshots load, mean the same and are written the
// same. Members of both are in one cluster while it is upgraded.
func TestReleases(t *testing.T) {
	if *writeRelease != "" {
		writeHistories(t, filepath.Join("testdata", "release-"+*writeRelease+".gz"))
	}
	files, err := filepath.Glob("testdata/release-*.gz")
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files of releases: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { replayHistories(t, file) })
	}
}

func replayHistories(t *testing.T, file string) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(unzipped)
	histories, snapshots := 0, 0
	for ; ; histories++ {
		if _, err := r.Peek(1); errors.Is(err, io.EOF) {
			break
		}
		fsm := NewFSM()
		for n := 0; ; n++ {
			command, answer := readRecord(t, r), readRecord(t, r)
			if len(command) == 0 {
				if now := fsm.State().Hash(); !bytes.Equal(now[:], answer) {
					t.Fatalf("history %d ends in another state", histories)
				}
				break
			}
			var cmd catalogpb.Command
			if err := proto.Unmarshal(command, &cmd); err != nil {
				t.Fatal(err)
			}
			if now := fsm.Apply(1, 1, cmd.GetVersion(), command); !bytes.Equal(now, answer) {
				t.Fatalf("history %d, command %d, %v: now %q, then %q", histories, n, &cmd, now, answer)
			}
		}
		if snapshot := readRecord(t, r); len(snapshot) > 0 {
			snapshots++
			checkSnapshot(t, fsm.State(), snapshot)
		}
	}
	if histories != releaseHistories || snapshots != releaseHistories/releaseSnapshots {
		t.Errorf("%d histories, %d snapshots", histories, snapshots)
	}
}

// checkSnapshot checks that a release's snapshot is read as the state and written as it was.
func checkSnapshot(t *testing.T, s *State, snapshot []byte) {
	t.Helper()
	read, err := ReadState(bytes.NewReader(snapshot))
	if err != nil {
		t.Fatal(err)
	}
	if read.Hash() != s.Hash() {
		t.Error("the snapshot means another state")
	}
	var now bytes.Buffer
	if _, err := s.WriteTo(&now); err != nil || !bytes.Equal(now.Bytes(), snapshot) {
		t.Errorf("the snapshot is written otherwise: %v", err)
	}
}

func readRecord(t *testing.T, r io.Reader) []byte {
	t.Helper()
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		t.Fatal(err)
	}
	record := make([]byte, binary.BigEndian.Uint32(length[:]))
	if _, err := io.ReadFull(r, record); err != nil {
		t.Fatal(err)
	}
	return record
}

// writeHistories writes the file of a release.
func writeHistories(t *testing.T, file string) {
	var out bytes.Buffer
	zip, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	for seed := range releaseHistories {
		records := rapid.Custom(drawHistory).Example(seed)
		if seed%releaseSnapshots != 0 {
			records[len(records)-1] = nil
		}
		for _, record := range records {
			_ = binary.Write(zip, binary.BigEndian, uint32(len(record))) // a bytes.Buffer takes all
			_, _ = zip.Write(record)
		}
	}
	if err := errors.Join(zip.Close(), os.WriteFile(file, out.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// drawHistory draws commands of all kinds, many of which are allowed, and
// returns the records of a history. The cluster has four nodes, and a volume "v", id
// 60, of three copies in a lease.
func drawHistory(t *rapid.T) (records [][]byte) {
	fsm := NewFSM()
	newest := rapid.Uint32Range(2, CommandVersion).Draw(t, "version in use")
	apply := func(cmd *catalogpb.Command) {
		if cmd.Version = versionOf(cmd); cmd.Version > newest {
			return
		}
		b := must(proto.Marshal(cmd))
		records = append(records, b, fsm.Apply(1, 1, cmd.GetVersion(), b))
	}
	begin := slices.Concat([]*catalogpb.Command{initCmd(), poolCmd(1<<21, "default")}, threeNodes(), []*catalogpb.Command{
		portalsCmd(101, nil), tokenCmd(0, 4, 3600), admitCmd(1, 4, nodeMsg(104, "n4")), diskCmd(204, 104), spreadPoolCmd(401, "two", 2, 0),
		spreadPoolCmd(50, "three", 3, 0), spreadVolumeCmd(60, "v", "three", 3*extmap.ShardBytes),
		allocateCmd(60, 0, 1, 2, 3, 2, 3, 1, 3, 1, 2), grantCmd(60, 101, 7, 0)})
	for _, cmd := range begin {
		apply(cmd)
	}
	for range rapid.IntRange(20, 80).Draw(t, "n") {
		switch rapid.IntRange(0, 5).Draw(t, "about") {
		case 0:
			apply(genCluster(t))
		case 1:
			cmd := genCommand(t)
			if v := cmd.GetCreateVolume(); v != nil {
				v.Id = testID(rapid.Uint32Range(1, 4).Draw(t, "volumeid"))
			}
			if v := cmd.GetRemoveVolume(); v != nil {
				v.Id = testID(rapid.Uint32Range(1, 4).Draw(t, "volumeid"))
			}
			apply(cmd)
		case 2:
			apply(genSpread(t, fsm.State()))
		default:
			apply(genThree(t, fsm.State()))
		}
	}
	hash := fsm.State().Hash()
	var snapshot bytes.Buffer
	_, _ = fsm.State().WriteTo(&snapshot) // a bytes.Buffer takes all
	return append(records, nil, hash[:], snapshot.Bytes())
}

// genThree draws commands about the volume of three copies, most of which s allows.
func genThree(t *rapid.T, s *State) *catalogpb.Command {
	const id, incarnation = 60, 7
	disks := rapid.Permutation([]uint32{1, 2, 3, 4}).Draw(t, "its disks")
	lease, v := s.LeaseTable().Get(testingID(id)), s.Map().Volume(testingID(id))
	if v == nil { // it is gone
		return portalsCmd(100+disks[0], &catalogpb.Portals{Data: []string{fmt.Sprintf("10.0.1.%d:1", disks[1])}})
	}
	late := rapid.SampledFrom([]uint64{0, 0, 0, 0, 0, 1}).Draw(t, "its late")
	generation := v.Sync(extmap.Disk(disks[0])).Generation - late
	to := extmap.Disk(disks[0])
	for m := range v.Moves() {
		to = m.To
	}
	switch rapid.IntRange(0, 14).Draw(t, "copieskind") {
	case 0:
		return releaseCmd(id, 101, incarnation, lease.Epoch)
	case 1:
		return grantCmd(id, 101, incarnation, lease.Epoch)
	case 2:
		return resizeCmd("v", s.Volume("v").SizeBytes+extmap.ShardBytes)
	case 3:
		return allocateCmd(id, v.Allocated(), disks[:3]...)
	case 4:
		return replaceCmd(id, disks[0], disks[1], generation)
	case 5, 6:
		return startMovesCmd(id, rapid.Uint32Range(0, v.Allocated()).Draw(t, "extent"), disks[0], disks[1])
	case 7:
		cmd := finishMovesCmd(id, lease.Epoch, uint32(to), v.Sync(to).Generation-late)
		cmd.GetFinishMoves().Proof = anyProof(t)
		return cmd
	case 8:
		return cancelMovesCmd(id, uint32(to))
	case 9:
		limit := rapid.Uint64Range(0, 3).Draw(t, "limit") * 1000
		return limitsCmd(&catalogpb.SetVolumeLimits{Name: "v", Iops: &limit})
	case 10:
		return noteCmd("certificate.issue", "v", "for n1", "")
	}
	cmd := markCmd(id, lease.Epoch, disks[0], generation, catalogpb.ReplicaChange(rapid.Int32Range(1, 4).Draw(t, "its change")))
	if cmd.GetMarkReplica().GetChange() == toIn {
		cmd.GetMarkReplica().Proof = anyProof(t)
	}
	return cmd
}

// anyProof is none most of the time, for commands of older versions to be drawn, too.
func anyProof(t *rapid.T) uint64 {
	return rapid.SampledFrom([]uint64{0, 0, 0, 5, 6, 1 << 40}).Draw(t, "its proof")
}
