package iscsihost

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"blockd.dev/blockdev"
	"blockd.dev/blockdev/arena"
	"blockd.dev/blockdev/devtest"
	"blockd.dev/blockdev/fault"
	"blockd.dev/blockdev/ram"
	"blockd.dev/target/auth"
	"blockd.dev/target/iscsi"
	"blockd.dev/target/iscsi/pdu"
	"blockd.dev/target/scsi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testTarget = "iqn.2026-01.dev.blockd:initiator-test"

// bed is a target over a RAM device behind a fault injector.
type bed struct {
	disk   *ram.Device
	faults *fault.Device
	arena  *arena.Arena
	srv    *iscsi.Server
	target *scsi.Target
	cfg    Config
}

func newBed(t testing.TB, blockSize int, limits iscsi.Limits, dir auth.Directory) *bed {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	b := &bed{}
	var err error
	b.arena, err = arena.New(arena.Config{SizeBytes: 96 << 20, HugePages: arena.Off})
	must(err)
	b.disk, err = ram.New(ram.Config{SizeBytes: 32 << 20, BlockSize: blockSize})
	must(err)
	b.faults = fault.New(b.disk, nil)
	id := scsi.UnitID{1}
	b.target, err = scsi.NewTarget(scsi.TargetConfig{Name: testTarget, AnyView: scsi.View{0: id, 300: id},
		Units: []scsi.UnitConfig{{ID: id, Name: "v", Device: b.faults}}}, scsi.Deps{Arena: b.arena})
	must(err)
	b.srv, err = iscsi.New(iscsi.Config{TargetName: testTarget, Target: b.target, Arena: b.arena, Auth: dir, Limits: limits})
	must(err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	served := make(chan error, 1)
	go func() { served <- b.srv.Serve(ln, 1) }()
	b.cfg = Config{Address: ln.Addr().String(), Target: testTarget}
	t.Cleanup(func() {
		b.cut()
		if err := <-served; !errors.Is(err, iscsi.ErrClosed) {
			t.Error(err)
		}
		b.target.Close()
		if err := errors.Join(b.faults.Close(), b.arena.Close(), b.disk.Close()); err != nil {
			t.Error(err)
		}
	})
	return b
}

// cut ends every connection at once.
func (b *bed) cut() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = b.srv.Shutdown(ctx)
}

func (b *bed) dial(t testing.TB, change func(*Config)) *Session {
	t.Helper()
	cfg := b.cfg
	if change != nil {
		change(&cfg)
	}
	s, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Every way to negotiate gives a device that passes the conformance suite.
func TestSessionConforms(t *testing.T) {
	for _, tc := range []struct {
		name      string
		blockSize int
		limits    iscsi.Limits
		change    func(*Config)
	}{
		{"defaults", 4096, iscsi.Limits{}, nil},
		{"digests", 4096, iscsi.Limits{}, func(c *Config) { c.HeaderDigest, c.DataDigest = true, true }},
		{"R2T only, small bursts, small window", 4096, iscsi.Limits{QueueDepth: 3, MaxRecvData: 8 << 10}, func(c *Config) {
			c.InitialR2T, c.NoImmediateData = true, true
			c.MaxBurst, c.FirstBurst, c.MaxRecvData = 32<<10, 4096, 5000
		}},
		{"unsolicited without immediate data, digests, LUN 300", 4096, iscsi.Limits{MaxRecvData: 16 << 10}, func(c *Config) {
			c.NoImmediateData, c.HeaderDigest, c.DataDigest, c.LUN = true, true, true, 300
			c.MaxBurst, c.FirstBurst = 128<<10, 100_000
		}},
		{"512 byte blocks", 512, iscsi.Limits{}, func(c *Config) { c.DataDigest, c.MaxRecvData = true, 1022 }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			mk := func(t *testing.T) (blockdev.Device, *arena.Arena) {
				b := newBed(t, tc.blockSize, tc.limits, nil)
				return b.dial(t, tc.change), b.arena
			}
			for name, run := range devtest.Tests {
				// COMPARE AND WRITE takes at most 255 blocks; that test wants
				// 256. TestCompareAndWriteOfManyBlocks is there instead.
				if tc.blockSize == 512 && name == "CompareAndWrite" {
					continue
				}
				t.Run(name, func(t *testing.T) { run(t, mk) })
			}
		})
	}
}

func TestCompareAndWriteOfManyBlocks(t *testing.T) {
	s := newBed(t, 512, iscsi.Limits{}, nil).dial(t, nil)
	const n = 255 * 512
	data := make([]byte, 2*n)
	for i := range n {
		data[n+i] = byte(i >> 9)
	}
	r := &blockdev.Request{Op: blockdev.OpCompareAndWrite, Offset: 512, Length: n, Data: [][]byte{data}}
	if err := blockdev.Do(s, r); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, n)
	if err := blockdev.ReadAt(s, got, 512); err != nil || !bytes.Equal(got, data[n:]) {
		t.Fatal("the data differs", err)
	}
	r.Length += 512
	r.Data = append(r.Data, make([]byte, 1024))
	if err := blockdev.Do(s, r); !errors.Is(err, blockdev.ErrInvalid) {
		t.Fatalf("256 blocks: %v", err)
	}
}

func TestRequestsBeyondTheTargetsLimitsAreSplit(t *testing.T) {
	s := newBed(t, 512, iscsi.Limits{}, nil).dial(t, nil)
	data := make([]byte, 9<<20) // the target takes 8 MiB
	for i := 0; i < len(data); i += 512 {
		binary.LittleEndian.PutUint32(data[i:], uint32(i))
	}
	if err := blockdev.WriteAt(s, data, 1024); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(data))
	if err := blockdev.ReadAt(s, got, 1024); err != nil || !bytes.Equal(got, data) {
		t.Fatal("the data differs", err)
	}
	// WRITE SAME takes 32768 blocks.
	if err := blockdev.Do(s, &blockdev.Request{Op: blockdev.OpWriteZeroes, FUA: true, Length: 32 << 20}); err != nil {
		t.Fatal(err)
	}
	if err := blockdev.ReadAt(s, got, 1024); err != nil || !bytes.Equal(got, make([]byte, len(data))) {
		t.Fatal("not zeroed", err)
	}
}

func TestGeometryIsTheDevices(t *testing.T) {
	b := newBed(t, 512, iscsi.Limits{}, nil)
	s := b.dial(t, nil)
	got, want := s.Geometry(), b.disk.Geometry()
	if got.SizeBytes != want.SizeBytes || got.BlockSize != want.BlockSize || got.PhysicalBlockSize != want.PhysicalBlockSize ||
		got.Thin != want.Thin || got.UnmapGranularity != want.UnmapGranularity || s.WriteCache() {
		t.Errorf("%+v, cache %v; want %+v", got, s.WriteCache(), want)
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	b := newBed(t, 512, iscsi.Limits{}, nil)
	s := b.dial(t, nil)
	for word, kind := range map[string]error{
		"medium": blockdev.ErrMedium, "no-space": blockdev.ErrNoSpace, "io": blockdev.ErrIO, "gone": blockdev.ErrGone,
		"busy": blockdev.ErrBusy, "read-only": blockdev.ErrReadOnly, "fenced": blockdev.ErrFenced,
	} {
		a, err := b.faults.AddText("write range=4096-8192 error=" + word)
		if err != nil {
			t.Fatal(err)
		}
		err = blockdev.WriteAt(s, make([]byte, 512), 4096+512)
		var e *blockdev.Error
		if !errors.Is(err, kind) || !errors.As(err, &e) || e.Op != blockdev.OpWrite || e.Offset != 4096+512 {
			t.Errorf("%s: %v", word, err)
		}
		a.Remove()
	}
}

func TestResizeIsSeen(t *testing.T) {
	b := newBed(t, 512, iscsi.Limits{}, nil)
	s := b.dial(t, nil)
	changes := make(chan blockdev.Change, 8)
	defer s.Watch(func(c blockdev.Change) { changes <- c })()
	if err := b.disk.Resize(48 << 20); err != nil {
		t.Fatal(err)
	}
	// The next command meets the unit attention and goes through it.
	if err := blockdev.WriteAt(s, make([]byte, 512), 0); err != nil {
		t.Fatal(err)
	}
	if c := <-changes; c != blockdev.ChangeSize || s.Geometry().SizeBytes != 48<<20 {
		t.Fatalf("change %d, size %d", c, s.Geometry().SizeBytes)
	}
	if err := blockdev.WriteAt(s, make([]byte, 512), 48<<20-512); err != nil {
		t.Fatal(err)
	}
}

func TestLostConnectionFailsEveryRequestOnce(t *testing.T) {
	b := newBed(t, 4096, iscsi.Limits{QueueDepth: 4}, nil)
	s := b.dial(t, nil)
	gone := make(chan blockdev.Change, 1)
	defer s.Watch(func(c blockdev.Change) { gone <- c })()
	if _, err := b.faults.AddText("any hang"); err != nil {
		t.Fatal(err)
	}
	const n = 16 // more than the window
	var wg sync.WaitGroup
	wg.Add(n)
	var batch []*blockdev.Request
	for i := range int64(n) {
		r := &blockdev.Request{Op: blockdev.OpWrite, Offset: i * 8192, Length: 8192, Data: [][]byte{make([]byte, 8192)}}
		r.Done = func(*blockdev.Request) { wg.Done() } // a second call panics
		batch = append(batch, r)
	}
	s.Submit(batch)
	go b.cut()
	wg.Wait()
	b.faults.Fail(blockdev.ErrIO)
	for _, r := range batch {
		if !errors.Is(r.Err, blockdev.ErrGone) {
			t.Errorf("%v", r.Err)
		}
	}
	if c := <-gone; c != blockdev.ChangeGone {
		t.Errorf("change %d", c)
	}
	if err := blockdev.Flush(s); !errors.Is(err, blockdev.ErrGone) {
		t.Errorf("after the end: %v", err)
	}
}

func TestSilentTargetIsLeft(t *testing.T) {
	b := newBed(t, 4096, iscsi.Limits{}, nil)
	s := b.dial(t, func(c *Config) { c.Timeout = 2 * time.Second }) // it bounds the login too, also on a slow machine
	if _, err := b.faults.AddText("read hang"); err != nil {
		t.Fatal(err)
	}
	err := blockdev.ReadAt(s, make([]byte, 4096), 0)
	if !errors.Is(err, ErrSilent) || !errors.Is(err, blockdev.ErrGone) {
		t.Fatal(err)
	}
	b.faults.Fail(blockdev.ErrIO)
}

// A connection is given up with a reset: what the kernel has not delivered by then never is.
func TestWhatIsGivenUpDoesNotComeLate(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, giveUp := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, pdu.BHSLen))
			giveUp()
		}
		if err == nil {
			_, err = io.Copy(io.Discard, c)
		}
		ended <- errors.Join(err, c.Close())
	}()
	if s, err := Dial(ctx, Config{Address: ln.Addr().String(), Target: "t"}); err == nil {
		t.Errorf("a login without an answer made %v", s)
	}
	if err := <-ended; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection ended with %v", err)
	}
}

func secret(t *testing.T, s string) auth.Secret {
	t.Helper()
	v, err := auth.NewSecret([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// directory asks everyone for the same.
type directory struct{ auth.Policy }

func (d directory) Host(string) (auth.Policy, error)      { return d.Policy, nil }
func (d directory) Discovery(string) (auth.Policy, error) { return d.Policy, nil }

func TestCHAP(t *testing.T) {
	host := auth.Credentials{Name: "user", Secret: secret(t, "a long secret of the host")}
	target := auth.Credentials{Name: "target", Secret: secret(t, "another secret, the target's")}
	other := secret(t, "a secret that nobody has")
	for _, a := range auth.Algorithms() {
		b := newBed(t, 4096, iscsi.Limits{}, directory{auth.Policy{Host: host, Target: target, Algorithms: []auth.Algorithm{a}}})
		b.dial(t, func(c *Config) { c.CHAP = host })
		b.dial(t, func(c *Config) { c.CHAP, c.Mutual = host, target })
		for name, change := range map[string]func(*Config){
			"authentication failed": func(c *Config) { c.CHAP = auth.Credentials{Name: "user", Secret: other} },
			"status 0x0201":         func(*Config) {},
			"did not prove":         func(c *Config) { c.CHAP, c.Mutual = host, auth.Credentials{Name: "target", Secret: other} },
		} {
			cfg := b.cfg
			change(&cfg)
			if s, err := Dial(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%v: %v, want words with %q", a, err, name)
				if s != nil {
					_ = s.Close()
				}
			}
		}
	}
}

func TestLoginFailuresAreTold(t *testing.T) {
	b := newBed(t, 4096, iscsi.Limits{}, nil)
	for want, change := range map[string]func(*Config){
		"no such target": func(c *Config) { c.Target = "iqn.2026-01.dev.blockd:other" },
		"not ready":      func(c *Config) { c.LUN = 7 },
		"refused":        func(c *Config) { c.Address = "127.0.0.1:1" },
		"LUN 20000":      func(c *Config) { c.LUN = 20000 },
		"FirstBurst":     func(c *Config) { c.MaxBurst, c.FirstBurst = 1024, 2048 },
		"no target name": func(c *Config) { c.Target = "" },
	} {
		cfg := b.cfg
		change(&cfg)
		if _, err := Dial(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want words with %q", err, want)
		}
	}
	var refused *LoginError
	cfg := b.cfg
	cfg.Target = "iqn.2026-01.dev.blockd:other"
	if _, err := Dial(t.Context(), cfg); !errors.As(err, &refused) || refused.Status != pdu.LoginNotFound {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(ctx, b.cfg); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestParseURL(t *testing.T) {
	c, err := ParseURL("iscsi://me%long enough secret@192.0.2.1:3261/iqn.2026-01.dev.blockd%3Aa/12?target_user=t&target_password=123456789012")
	if err != nil {
		t.Fatal(err)
	}
	if c.Address != "192.0.2.1:3261" || c.Target != "iqn.2026-01.dev.blockd:a" || c.LUN != 12 || c.CHAP.Name != "me" ||
		string(c.CHAP.Secret.Reveal()) != "long enough secret" || c.Mutual.Name != "t" {
		t.Errorf("%+v", c)
	}
	for in, want := range map[string]string{
		"iscsi://h/t/0":             "h:3260",
		"iscsi://[2001:db8::1]/t/0": "[2001:db8::1]:3260",
		"iscsi://[::1]:99/t/0":      "[::1]:99",
	} {
		if c, err := ParseURL(in); err != nil || c.Address != want {
			t.Errorf("%s: %q, %v", in, c.Address, err)
		}
	}
	for _, bad := range []string{"", "http://h/t/0", "iscsi://h", "iscsi://h/t", "iscsi://h/t/x", "iscsi://h/t/16384", "iscsi:///t/0",
		"iscsi://user@h/t/0", "iscsi://user%short@h/t/0", "iscsi://h/t/0?x=1"} {
		if c, err := ParseURL(bad); err == nil {
			t.Errorf("%q was taken for %+v", bad, c)
		}
	}
	if _, err := ParseURL("iscsi://user%tooshort@h/t/0"); err == nil || strings.Contains(err.Error(), "tooshort") {
		t.Errorf("the error tells the secret: %v", err)
	}
}

func TestParseSense(t *testing.T) {
	fixed := make([]byte, 18)
	fixed[0], fixed[2], fixed[12], fixed[13] = 0xf0, 0x0e, 0x1d, 0
	binary.BigEndian.PutUint32(fixed[3:], 77)
	if s := parseSense(fixed); s != (Sense{Key: 0xe, ASC: 0x1d00, HasInfo: true, Info: 77}) {
		t.Errorf("%+v", s)
	}
	desc := make([]byte, 20)
	desc[0], desc[1], desc[2], desc[3], desc[7] = 0x72, 0x3, 0x11, 0, 12
	desc[9], desc[10] = 10, 0x80
	binary.BigEndian.PutUint64(desc[12:], 1<<40)
	if s := parseSense(desc); s != (Sense{Key: 3, ASC: 0x1100, HasInfo: true, Info: 1 << 40}) {
		t.Errorf("%+v", s)
	}
	for n := range desc {
		_ = parseSense(desc[:n]) // must not panic
		if n < len(fixed) {
			_ = parseSense(fixed[:n])
		}
	}
}

// hammer runs n requests one after the other, each submitted from the Done of
// the one before.
type hammer struct {
	s     *Session
	req   blockdev.Request
	batch [1]*blockdev.Request
	left  int
	done  chan error
}

func newHammer(s *Session, op blockdev.Op, n int) *hammer {
	h := &hammer{s: s, done: make(chan error, 1)}
	h.req = blockdev.Request{Op: op, Length: int64(n), Data: [][]byte{make([]byte, n)}}
	h.req.Done = func(r *blockdev.Request) {
		if h.left--; r.Err != nil || h.left == 0 {
			h.done <- r.Err
			return
		}
		h.batch[0] = &h.req
		h.s.Submit(h.batch[:])
	}
	return h
}

func (h *hammer) run(tb testing.TB, n int) {
	h.left = n
	h.batch[0] = &h.req
	h.s.Submit(h.batch[:])
	if err := <-h.done; err != nil {
		tb.Fatal(err)
	}
}

func TestRequestsDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector allocates")
		return
	}
	s := newBed(t, 4096, iscsi.Limits{}, nil).dial(t, nil)
	for _, tc := range []struct {
		op blockdev.Op
		n  int
	}{{blockdev.OpRead, 4096}, {blockdev.OpWrite, 4096}, {blockdev.OpRead, 512 << 10}, {blockdev.OpWrite, 512 << 10}} {
		h := newHammer(s, tc.op, tc.n)
		h.run(t, 64)
		const requests = 100
		if n := testing.AllocsPerRun(10, func() { h.run(t, requests) }); n > requests/20 {
			t.Errorf("%v of %d bytes: %v allocations in %d requests", tc.op, tc.n, n, requests)
		}
	}
}

func BenchmarkSession(b *testing.B) {
	s := newBed(b, 4096, iscsi.Limits{}, nil).dial(b, nil)
	for _, op := range []blockdev.Op{blockdev.OpRead, blockdev.OpWrite} {
		b.Run(op.String(), func(b *testing.B) {
			h := newHammer(s, op, 4096)
			b.ReportAllocs()
			b.SetBytes(4096)
			h.run(b, max(b.N, 1))
		})
	}
}
