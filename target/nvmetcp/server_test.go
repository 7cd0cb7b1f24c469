package nvmetcp_test

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/target/auth"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp"
	"blockd.dev/target/nvmetcp/nvmehost"
	"blockd.dev/target/nvmetcp/pdu"
)

// Several hosts with several queues each, at once, see what they wrote.
func TestManyQueuesAndControllers(t *testing.T) {
	b := newBed(t, nvmetcp.Limits{}, nil)
	var wg sync.WaitGroup
	for i := range 3 {
		cfg := b.config()
		cfg.Queues, cfg.Depth, cfg.DataDigest, cfg.HeaderDigest = 4, 32, i == 1, i == 2
		n := b.namespace(b.dial(cfg))
		for j := range 8 {
			wg.Go(func() {
				p, q := make([]byte, 64<<10), make([]byte, 64<<10)
				for range 20 {
					_, _ = rand.Read(p)
					off := int64(i*8+j) * int64(len(p))
					if err := blockdev.WriteAt(n, p, off); err != nil {
						t.Error(err)
					}
					if err := blockdev.ReadAt(n, q, off); err != nil || !bytes.Equal(p, q) {
						t.Errorf("read back: %v", err)
					}
				}
			})
		}
	}
	wg.Wait()
	sessions := b.server.Sessions()
	if len(sessions) != 3*5 {
		t.Fatalf("%d sessions, want 15", len(sessions))
	}
	for _, s := range sessions {
		if s.QID != 0 && s.Entries != 32 {
			t.Errorf("%+v", s)
		}
	}
}

func key(t *testing.T, n int, h auth.DHHash) auth.DHKey {
	t.Helper()
	s, err := auth.NewDHKey(n, h)
	if err != nil {
		t.Fatal(err)
	}
	k, err := auth.ParseDHKey(s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAuthenticationOverTheWire(t *testing.T) {
	good, ctrl, bad := key(t, 32, auth.DHSHA256), key(t, 48, auth.DHSHA384), key(t, 32, auth.DHSHA256)
	b := newBed(t, nvmetcp.Limits{}, directory{policy: auth.NVMePolicy{Host: good, Controller: ctrl}})
	for name, tc := range map[string]struct {
		key, ctrl auth.DHKey
		ok        bool
	}{
		"right": {good, auth.DHKey{}, true}, "both ways": {good, ctrl, true},
		"wrong": {bad, auth.DHKey{}, false}, "none": {auth.DHKey{}, auth.DHKey{}, false}, "wrong controller": {good, bad, false},
	} {
		cfg := b.config()
		cfg.Key, cfg.Controller, cfg.Queues = tc.key, tc.ctrl, 2
		h, err := nvmehost.Dial(cfg)
		if (err == nil) != tc.ok || err != nil && !errors.Is(err, auth.ErrAuth) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		n := b.namespace(h)
		if err := blockdev.ReadAt(n, make([]byte, 4096), 0); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := h.Authenticate(); err != nil {
			t.Errorf("%s, again: %v", name, err)
		}
		if err := blockdev.ReadAt(n, make([]byte, 4096), 0); err != nil {
			t.Errorf("%s, after authenticating again: %v", name, err)
		}
		h.Close()
	}
	if st := b.server.Stats(); st.AuthFailed == 0 {
		t.Errorf("%+v", st)
	}
}

// A host that must authenticate can do nothing else before.
func TestNothingBeforeAuthentication(t *testing.T) {
	b := newBed(t, nvmetcp.Limits{}, directory{policy: auth.NVMePolicy{Host: key(t, 32, auth.DHHashNone)}})
	w := b.wire()
	w.init(pdu.IC{})
	w.send(connectCapsule(31))
	if s := w.response(); s != nvme.Success {
		t.Fatal(s)
	}
	var get pdu.CapsuleCmd
	get.SQE[0], get.SQE[1], get.SQE[4] = nvme.OpFabrics, 0x40, nvme.FabricsPropertyGet
	w.send(get.Append(nil, &pdu.Layout{}, 0))
	if s := w.response(); s.Code() != nvme.AuthenticationRequired {
		t.Errorf("Property Get: %v", s)
	}
}

func TestHostsThatAreNotAllowed(t *testing.T) {
	b := newBed(t, nvmetcp.Limits{}, directory{err: auth.ErrNotAllowed})
	_, err := nvmehost.Dial(b.config())
	var se *nvmehost.StatusError
	if !errors.As(err, &se) || nvme.Status(se.Status) != nvme.ConnectInvalidHost {
		t.Fatalf("%v, want Connect Invalid Host without Do Not Retry", err)
	}
}

func TestDiscovery(t *testing.T) {
	b := newBed(t, nvmetcp.Limits{}, nil)
	for _, addr := range []string{b.addr, b.discovery} {
		cfg := b.config()
		cfg.Addr, cfg.SubNQN = addr, nvme.DiscoveryNQN
		h := b.dial(cfg)
		p, err := h.LogPage(0x70, 0, 1024)
		if err != nil || binary.LittleEndian.Uint64(p) == 0 {
			t.Errorf("%s: generation %d: %v", addr, binary.LittleEndian.Uint64(p), err)
		}
	}
	cfg := b.config()
	cfg.Addr = b.discovery
	if _, err := nvmehost.Dial(cfg); err == nil {
		t.Error("the discovery port serves the NVM subsystem")
	}
}

// A new size reaches a connected host by event.
func TestResizeIsSeen(t *testing.T) {
	b := newBed(t, nvmetcp.Limits{}, nil)
	h := b.dial(b.config())
	n := b.namespace(h)
	changed := make(chan blockdev.Change, 1)
	defer n.Watch(func(c blockdev.Change) { changed <- c })()
	c := &nvmehost.Call{}
	c.SQE[0] = nvme.OpSetFeatures
	c.SQE[40] = 0x0b
	binary.LittleEndian.PutUint32(c.SQE[44:], 1<<8)
	if err := h.Admin(c); err != nil {
		t.Fatal(err)
	}
	h.WatchEvents()
	if err := b.device.Resize(80 << 20); err != nil {
		t.Fatal(err)
	}
	select {
	case c := <-changed:
		if c != blockdev.ChangeSize || n.Geometry().SizeBytes != 80<<20 {
			t.Errorf("change %v, size %d", c, n.Geometry().SizeBytes)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
	}
}

// A host that is silent for longer than KATO loses its controller, all queues
// of it.
func TestKeepAliveEndsTheController(t *testing.T) {
	b := newBed(t, nvmetcp.Limits{}, nil)
	cfg := b.config()
	cfg.KeepAlive = 2 * time.Second
	lively := b.dial(cfg)
	cfg.KeepAlive = 0
	w := b.wire()
	w.init(pdu.IC{})
	capsule := connectCapsule(31)
	binary.LittleEndian.PutUint32(capsule[8+48:], 2000)
	w.send(capsule)
	if s := w.response(); s != nvme.Success {
		t.Fatal(s)
	}
	w.closed()
	if err := blockdev.ReadAt(b.namespace(lively), make([]byte, 4096), 0); err != nil {
		t.Errorf("the host that keeps alive: %v", err)
	}
}

// NVMe TCP 1.0 §3.5, §3.6.2.4: what breaks the protocol ends the connection
// with the status for it, and nobody else's.
func TestFatalErrors(t *testing.T) {
	b := newBed(t, nvmetcp.Limits{}, nil)
	h2c := func(d pdu.Data, n int) []byte {
		d.FromHost, d.Length = true, uint32(n)
		return append(d.Append(nil, &pdu.Layout{}), make([]byte, n)...)
	}
	for name, tc := range map[string]struct {
		ready bool // after ICReq
		bytes []byte
		want  pdu.FatalError
	}{
		"command before ICReq":  {false, (&pdu.CapsuleCmd{}).Append(nil, &pdu.Layout{}, 0), *pdu.Fatal(pdu.SequenceError, 0)},
		"second ICReq":          {true, (&pdu.IC{}).Append(nil), *pdu.Fatal(pdu.SequenceError, 0)},
		"unknown type":          {true, []byte{0x77, 0, 8, 0, 8, 0, 0, 0}, *pdu.Fatal(pdu.InvalidHeaderField, 0)},
		"PFV 1":                 {false, append((&pdu.IC{PFV: 1}).Append(nil), 0), *pdu.Fatal(pdu.UnsupportedParameter, 8)},
		"data nobody asked for": {true, h2c(pdu.Data{TTag: 1, Last: true}, 512), *pdu.Fatal(pdu.InvalidHeaderField, 10)},
		"capsule above 8 KiB":   {true, append((&pdu.CapsuleCmd{}).Append(nil, &pdu.Layout{}, 8196), make([]byte, 8196)...), *pdu.Fatal(pdu.TransferLimit, 0)},
	} {
		w := b.wire()
		if tc.ready {
			w.init(pdu.IC{})
		}
		w.send(tc.bytes)
		if got := w.terminated(); got != tc.want {
			t.Errorf("%s: %v, want %v", name, &got, &tc.want)
		}
	}
	w := b.wire()
	w.init(pdu.IC{HeaderDigest: true})
	bad := (&pdu.CapsuleCmd{}).Append(nil, &pdu.Layout{HeaderDigest: true}, 0)
	bad[20] ^= 1
	w.send(bad)
	if got := w.terminated(); got.Status != pdu.HeaderDigestError || got.Info != pdu.DigestAt(bad[72:]) {
		t.Errorf("bad header digest: %v", &got)
	}
	b.works()
}

// Data whose digest is wrong ends its command, and may be sent again; the
// connection lives (§3.3.1.1).
func TestBadDataDigestEndsTheCommandOnly(t *testing.T) {
	b := newBed(t, nvmetcp.Limits{}, nil)
	w := b.wire()
	w.init(pdu.IC{DataDigest: true})
	c := connectCapsule(31)
	l := &pdu.Layout{DataDigest: true}
	var p pdu.CapsuleCmd
	if _, err := p.Decode(c); err != nil {
		t.Fatal(err)
	}
	data := c[72:]
	good := append(p.Append(nil, l, len(data)), data...)
	bad := pdu.AppendDigest(bytes.Clone(good), 0x12345678)
	w.send(bad)
	if s := w.response(); s != nvme.TransientTransportError {
		t.Errorf("bad digest: %v", s)
	}
	w.send(pdu.AppendDigest(good, pdu.Digest(0, data)))
	if s := w.response(); s != nvme.Success {
		t.Errorf("the same again: %v", s)
	}
}

// Peers that stop half way are dropped in time, whichever half.
func TestStalledPeersAreDropped(t *testing.T) {
	b := newBed(t, nvmetcp.Limits{InitSeconds: 1, HandshakeSeconds: 1, StallSeconds: 1}, nil)
	var wg sync.WaitGroup
	for _, stop := range []func(w *wire){
		func(w *wire) {}, // connects and is silent
		func(w *wire) { w.send((&pdu.IC{}).Append(nil)[:50]) }, // half an ICReq
		func(w *wire) { w.init(pdu.IC{}) },                     // no Connect
		func(w *wire) { // half a command
			w.init(pdu.IC{})
			w.send(connectCapsule(31))
			w.response()
			w.send((&pdu.CapsuleCmd{}).Append(nil, &pdu.Layout{}, 0)[:30])
		},
	} {
		w := b.wire()
		stop(w)
		wg.Go(w.closed)
	}
	wg.Wait()
	b.works()
}

// A host that reads nothing holds its own connection and no other, and its
// memory is bounded.
func TestSlowReader(t *testing.T) {
	const limit = 2 << 20
	b := newBed(t, nvmetcp.Limits{BufferBytes: limit}, nil)
	cfg := b.config()
	cfg.Depth = 128
	n := b.namespace(b.dial(cfg))
	var wg sync.WaitGroup
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open)
	// The host's reader blocks in Done, once every command is on its way:
	// nothing of this queue is read.
	var once sync.Once
	batch := make([]*blockdev.Request, 0, 100)
	for range cap(batch) {
		wg.Add(1)
		r := &blockdev.Request{Op: blockdev.OpRead, Length: 256 << 10, Data: [][]byte{make([]byte, 256<<10)}}
		r.Done = func(r *blockdev.Request) {
			once.Do(func() { <-gate })
			if r.Err != nil {
				t.Error(r.Err)
			}
			wg.Done()
		}
		batch = append(batch, r)
	}
	n.Submit(batch)
	b.await("a command that has to wait, without which the test shows nothing", func() bool {
		parked := uint64(0)
		for _, s := range b.server.Sessions() {
			// A command may be trying to get a buffer, and count it meanwhile.
			if s.Stats.HeldBytes > limit+256<<10 {
				t.Fatalf("queue %d holds %d bytes, more than %d", s.QID, s.Stats.HeldBytes, limit)
			}
			parked += s.Stats.Parked
		}
		return parked > 0
	})
	b.works()
	open()
	wg.Wait()
}

// What waits to be sent to a slow host is as it was read, whatever is written
// meanwhile: data digests, made when it was queued, are right, and each block is of
// one write.
func TestWritesLeaveQueuedReadsAlone(t *testing.T) {
	b := newBed(t, nvmetcp.Limits{}, nil)
	const size, old, fresh = 256 << 10, 1, 2
	if err := blockdev.WriteAt(b.device, bytes.Repeat([]byte{old}, size), 0); err != nil {
		t.Fatal(err)
	}
	cfg := b.config()
	cfg.Depth, cfg.DataDigest = 128, true
	n := b.namespace(b.dial(cfg))
	var wg sync.WaitGroup
	gate := make(chan struct{})
	open := sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open)
	var once sync.Once
	batch := make([]*blockdev.Request, 0, 100)
	for range cap(batch) {
		wg.Add(1)
		r := &blockdev.Request{Op: blockdev.OpRead, Length: size, Data: [][]byte{make([]byte, size)}}
		r.Done = func(*blockdev.Request) {
			once.Do(func() { <-gate })
			wg.Done()
		}
		batch = append(batch, r)
	}
	n.Submit(batch)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for held := false; !held; {
		for _, s := range b.server.Sessions() {
			held = held || s.Socket.Stalls > 0 && s.Stats.HeldBytes > 1<<20
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatal("nothing waits to be sent: the test shows nothing")
		}
	}
	if err := blockdev.WriteAt(b.device, bytes.Repeat([]byte{fresh}, size), 0); err != nil {
		t.Fatal(err)
	}
	open()
	wg.Wait()
	for i, r := range batch {
		if r.Err != nil {
			t.Fatalf("read %d: %v", i, r.Err)
		}
		for off := 0; off < size; off += 4096 {
			p := r.Data[0][off:][:4096]
			if bytes.Count(p, p[:1]) != len(p) || p[0] != old && p[0] != fresh {
				t.Fatalf("read %d: the block at %d is mixed", i, off)
			}
		}
	}
	if got := batch[0].Data[0][size-1]; got != old {
		t.Errorf("the first read ends in %d", got)
	}
}

// Reads and writes of one block do not allocate, on either side of the wire.
func TestIODoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Log("the race detector allocates: only the traffic is checked")
	}
	b := newBed(t, nvmetcp.Limits{}, nil)
	for name, cfg := range map[string]nvmehost.Config{"plain": {}, "digests and R2T": {HeaderDigest: true, DataDigest: true, NoInline: true, SQFlow: true}} {
		base := b.config()
		cfg.Addr, cfg.SubNQN, cfg.HostNQN, cfg.HostID = base.Addr, base.SubNQN, base.HostNQN, base.HostID
		n := b.namespace(b.dial(cfg))
		for _, op := range []blockdev.Op{blockdev.OpRead, blockdev.OpWrite} {
			const depth = 32
			var wg sync.WaitGroup
			batch := make([]*blockdev.Request, depth)
			for i := range batch {
				batch[i] = &blockdev.Request{Op: op, Offset: int64(i) << 12, Length: 4096, Data: [][]byte{make([]byte, 4096)}}
				batch[i].Done = func(r *blockdev.Request) {
					if r.Err != nil {
						t.Error(r.Err)
					}
					wg.Done()
				}
			}
			round := func() {
				wg.Add(depth)
				n.Submit(batch)
				wg.Wait()
			}
			for range 50 {
				round()
			}
			if a := testing.AllocsPerRun(200, round); a >= depth/8 && !raceEnabled {
				t.Errorf("%s, %v: %.1f allocations per %d I/Os", name, op, a, depth)
			}
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	b := newBed(t, nvmetcp.Limits{}, nil)
	for want, cfg := range map[string]nvmetcp.Config{
		"Subsystem":   {Arena: b.arena},
		"Arena":       {Subsystem: b.subsystem},
		"MaxH2CData":  {Subsystem: b.subsystem, Arena: b.arena, Limits: nvmetcp.Limits{MaxH2CData: 4097}},
		"BufferBytes": {Subsystem: b.subsystem, Arena: b.arena, Limits: nvmetcp.Limits{BufferBytes: 4096}},
		"Handshakes":  {Subsystem: b.subsystem, Arena: b.arena, Limits: nvmetcp.Limits{Handshakes: -1}},
	} {
		if _, err := nvmetcp.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want it to name %s", err, want)
		}
	}
}

// How connections waited is counted while they live and when they are gone.
func TestStatsCountWaitsOfConnectionsThatAreGone(t *testing.T) {
	b := newBed(t, nvmetcp.Limits{}, nil)
	h := b.dial(b.config())
	now := b.server.Stats().Poll
	if now.Hits+now.Parks == 0 {
		t.Fatalf("no waits are counted: %+v", now)
	}
	h.Close()
	if err := b.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	then := b.server.Stats().Poll
	if then.Hits < now.Hits || then.Parks < now.Parks || then.Spun < now.Spun || then.Spinning != 0 || then.Budget != 0 {
		t.Fatalf("%+v with the connection, %+v without", now, then)
	}
}
