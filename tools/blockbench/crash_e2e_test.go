//go:build e2e

package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/testenv/node"
	"blockd.dev/tools/blockbench/iscsihost"
)

// The programs as `make build` leaves them.
const binDir = "../../bin"

// crashes is how often TestAcknowledgedDataSurvivesKills kills blockd:
// BLOCKD_E2E_CRASHES, or 30.
func crashes(t *testing.T) int {
	t.Helper()
	text, ok := os.LookupEnv("BLOCKD_E2E_CRASHES")
	if !ok {
		return 30
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("BLOCKD_E2E_CRASHES=%q: give a number from 1", text)
	}
	return n
}

func startNode(t *testing.T) *node.Node {
	t.Helper()
	n, err := node.Start(t.Context(), node.Config{BinDir: binDir, DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(node.StopMax); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("blockd's log:\n%s", n.Log())
		}
	})
	return n
}

// bench is a blockbench that runs.
type bench struct {
	cmd         *exec.Cmd
	out, errOut bytes.Buffer
	ended       chan struct{}
}

func startBench(t *testing.T, args ...string) *bench {
	t.Helper()
	b := &bench{cmd: exec.CommandContext(t.Context(), filepath.Join(binDir, "blockbench"), args...), ended: make(chan struct{})}
	b.cmd.Stdout, b.cmd.Stderr = &b.out, &b.errOut
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = b.cmd.Wait() // the exit status is looked at
		close(b.ended)
	}()
	return b
}

// status waits for the end.
func (b *bench) status(t *testing.T) int {
	t.Helper()
	select {
	case <-b.ended:
	case <-time.After(3 * time.Minute):
		_ = b.cmd.Process.Kill() // it may have just ended
		t.Fatalf("blockbench does not end\n%s%s", &b.out, &b.errOut)
	}
	return b.cmd.ProcessState.ExitCode()
}

// grows waits until the file has n more bytes.
func grows(t *testing.T, path string, n int64, b *bench) {
	t.Helper()
	size := func() int64 {
		st, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			return 0
		}
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	deadline := time.After(time.Minute)
	for want := size() + n; size() < want; {
		select {
		case <-poll.C:
		case <-b.ended:
			t.Fatalf("blockbench ended\n%s%s", &b.out, &b.errOut)
		case <-deadline:
			t.Fatalf("%s does not grow\n%s%s", path, &b.out, &b.errOut)
		}
	}
}

// protocols are the ways to reach a volume. A journal belongs to the volume: what
// was written by one is verified by the other.
var protocols = []string{"iscsi", "nvme"}

func url(n *node.Node, v node.Volume, protocol string) string {
	if protocol == "nvme" {
		return fmt.Sprintf("nvme://127.0.0.1:%s/%s/%d", n.NVMePort(0), v.NQN, v.NSID)
	}
	return n.URL(0, v)
}

// loadArgs are the arguments of a verified load, and its journal.
func loadArgs(n *node.Node, v node.Volume, protocol, dir string, seed int, more ...string) (args []string, journal string) {
	journal = filepath.Join(dir, v.Name)
	return append([]string{protocol, url(n, v, protocol), "--verify", "--journal", journal, "--zeroed", "--range", "48MiB",
		"--bs", "4K:70,16K:15,64K:10,256K:5", "--mix", "read:20,write:65,unmap:5,write-zeroes:5,compare-and-write:5",
		"--connections", "2", "--depth", "12", "--seed", strconv.Itoa(seed), "--runtime", "2m", "--progress", "off"}, more...), journal
}

func volumes(t *testing.T, n *node.Node) []node.Volume {
	t.Helper()
	var list []node.Volume
	for name, blockSize := range map[string]int{"small-blocks": 512, "large-blocks": 4096} {
		v, err := n.CreateVolume(t.Context(), name, "64MiB", blockSize)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, v)
	}
	return list
}

// blockd is killed with kill -9 again and again while two volumes are written
// to, one over iSCSI and one over NVMe/TCP, in turn. After each restart every block holds what was acknowledged last, or what
// was in flight, in one piece.
func TestAcknowledgedDataSurvivesKills(t *testing.T) {
	n := startNode(t)
	vols := volumes(t, n)
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	var open, checked int64
	kills := crashes(t)
	for kill := range kills {
		var loads []*bench
		for i, v := range vols {
			args, journal := loadArgs(n, v, protocols[(kill+i)%2], dir, kill)
			b := startBench(t, args...)
			loads = append(loads, b)
			grows(t, journal, 32*(200+rng.Int64N(3000)), b)
		}
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		for _, b := range loads {
			if s := b.status(t); s != 1 || !strings.Contains(b.errOut.String(), "the target was lost") {
				t.Fatalf("kill %d: blockbench ended with status %d, not because the target was lost\n%s%s", kill, s, &b.out, &b.errOut)
			}
		}
		if err := n.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, v := range vols {
			// Two kills are verified by the protocol that wrote, two by the other.
			by := protocols[(kill+i+kill/2)%2]
			b := startBench(t, "verify", "--journal", filepath.Join(dir, v.Name), "-o", "json", url(n, v, by))
			if s := b.status(t); s != 0 {
				t.Fatalf("kill %d, volume %s: verify over %s ended with status %d\n%s%s", kill, v.Name, by, s, &b.out, &b.errOut)
			}
			var result verified
			if err := json.Unmarshal(b.out.Bytes(), &result); err != nil || !result.Complete || result.Open != 0 {
				t.Fatalf("%+v, %v", result, err)
			}
			checked += result.Checked
			open += result.Settled
		}
	}
	t.Logf("%d kills survived; %d blocks checked, %d of them were in flight at a kill", kills, checked, open)
	if open == 0 {
		t.Error("no write was ever in flight at a kill: the test does not test")
	}
}

// A load goes on through kills by itself, and all is verified.
func TestLoadGoesOnThroughKills(t *testing.T) {
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) { loadThroughKills(t, protocol) })
	}
}

func loadThroughKills(t *testing.T, protocol string) {
	const kills = 3
	n := startNode(t)
	v := volumes(t, n)[0]
	args, journal := loadArgs(n, v, protocol, t.TempDir(), 1, "--reconnect", "60s", "-o", "json")
	b := startBench(t, args...)
	for range kills {
		grows(t, journal, 32*2000, b)
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := n.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	grows(t, journal, 32*2000, b)
	if err := b.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	status := b.status(t)
	var rep report
	if err := json.Unmarshal(b.out.Bytes(), &rep); err != nil || status != 0 {
		t.Fatalf("status %d, %v\n%s%s", status, err, &b.out, &b.errOut)
	}
	if rep.Reconnects < kills || rep.Verified.LookedUp == 0 || !rep.Verified.Complete {
		t.Errorf("%d reconnects, %+v", rep.Reconnects, rep.Verified)
	}
	t.Logf("%d reconnects, %d writes looked up, away for up to %v", rep.Reconnects, rep.Verified.LookedUp, rep.AwayMax)
}

// PERSISTENT RESERVE service actions and types (SPC-5 §6.13, §6.14).
const (
	prIn, prOut        = 0x5e, 0x5f
	prReadKeys         = 0x00
	prReadReservation  = 0x01
	prReserve          = 0x01
	prRegister         = 0x00
	prWriteExclusiveRO = 0x05 // write exclusive, registrants only
)

// A reservation with APTPL, and who is registered, survive kill -9.
func TestReservationsSurviveKill(t *testing.T) {
	n := startNode(t)
	v := volumes(t, n)[0]
	dial := func(name string, isid byte) *iscsihost.Session {
		t.Helper()
		cfg, err := iscsihost.ParseURL(n.URL(0, v))
		if err != nil {
			t.Fatal(err)
		}
		cfg.Initiator, cfg.ISID = "iqn.2026-01.dev.blockd:"+name, [6]byte{0x80, 0, 0, 0, isid, 0}
		s, err := iscsihost.Dial(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	out := func(s *iscsihost.Session, action, kind byte, key, newKey uint64) {
		t.Helper()
		p := make([]byte, 24)
		binary.BigEndian.PutUint64(p, key)
		binary.BigEndian.PutUint64(p[8:], newKey)
		p[20] = 1 // APTPL
		res, err := s.Command([]byte{prOut, action, kind, 0, 0, 0, 0, 0, byte(len(p)), 0}, p, true)
		if err := errors.Join(err, res.Err()); err != nil {
			t.Fatal(err)
		}
	}
	const key = 0x1122334455667788
	for kill := range 3 {
		a := dial("host-a", 1)
		if kill == 0 {
			out(a, prRegister, 0, 0, key)
			out(a, prReserve, prWriteExclusiveRO, key, 0)
		}
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(a.Close(), n.Restart(t.Context())); err != nil {
			t.Fatal(err)
		}
		a, b := dial("host-a", 1), dial("host-b", 2)
		for _, action := range []byte{prReadKeys, prReadReservation} {
			p := make([]byte, 24)
			res, err := b.Command([]byte{prIn, action, 0, 0, 0, 0, 0, 0, byte(len(p)), 0}, p, false)
			if err := errors.Join(err, res.Err()); err != nil {
				t.Fatal(err)
			}
			if got := binary.BigEndian.Uint64(p[8:]); res.N < 16 || got != key {
				t.Fatalf("kill %d: service action %d returns % x", kill, action, p[:res.N])
			}
			if action == prReadReservation && (res.N < 24 || p[21]&0xf != prWriteExclusiveRO) {
				t.Errorf("kill %d: reservation % x", kill, p[:res.N])
			}
		}
		block := make([]byte, v.BlockSize)
		if err := blockdev.WriteAt(b, block, 0); !errors.Is(err, blockdev.ErrFenced) {
			t.Errorf("kill %d: a host without a registration writes: %v", kill, err)
		}
		if err := blockdev.ReadAt(b, block, 0); err != nil {
			t.Errorf("kill %d: %v", kill, err)
		}
		if err := blockdev.WriteAt(a, block, 0); err != nil {
			t.Errorf("kill %d: the holder cannot write: %v", kill, err)
		}
		if err := errors.Join(a.Close(), b.Close()); err != nil {
			t.Error(err)
		}
	}
}
