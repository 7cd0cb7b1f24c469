package iscsihost

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"blockd.dev/blockdev"
	"blockd.dev/target/iscsi/pdu"
)

// hostileTarget answers every connection with the bytes that it is given.
type hostileTarget struct {
	ln   net.Listener
	mu   sync.Mutex
	data []byte
}

func newHostileTarget(tb testing.TB) *hostileTarget {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	h := &hostileTarget{ln: ln}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(5 * time.Second))
				h.mu.Lock()
				data := h.data
				h.mu.Unlock()
				if _, err := c.Write(data); err != nil {
					return
				}
				_ = c.(*net.TCPConn).CloseWrite() // the other side may be gone
				_, _ = io.Copy(io.Discard, c)
			})
		}
	})
	tb.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	return h
}

func (h *hostileTarget) say(data []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.data = data
}

// Whatever a target sends, every request ends once and nothing else is
// touched.
func FuzzSession(f *testing.F) {
	h := newHostileTarget(f)
	// The first command has tag 1<<slotBits, the next one 1<<slotBits|1.
	read, write := uint32(1<<slotBits), uint32(1<<slotBits|1)
	dataIn := (&pdu.DataIn{Final: true, HasStatus: true, ITT: read, MaxCmdSN: 9, DataLen: 8192}).Append(nil)
	dataIn = append(dataIn, make([]byte, 8192)...)
	r2t := (&pdu.R2T{ITT: write, TTT: 5, Length: 4096, MaxCmdSN: 9}).Append(nil)
	sense := make([]byte, 20)
	sense[1], sense[2], sense[4], sense[14] = 18, 0x70, 3, 0x11
	response := append((&pdu.SCSIResponse{ITT: write, Status: 2, DataLen: 20, MaxCmdSN: 9}).Append(nil), sense...)
	nop := (&pdu.NOPIn{ITT: pdu.NoTag, TTT: 3, MaxCmdSN: 9}).Append(nil)
	async := (&pdu.Async{Event: pdu.AsyncLogout, MaxCmdSN: 9}).Append(nil)
	for _, digests := range []bool{false, true} {
		f.Add(dataIn, digests)
		f.Add(append(append([]byte(nil), r2t...), response...), digests)
		f.Add(append(append(append([]byte(nil), nop...), async...), dataIn...), digests)
		f.Add((&pdu.Reject{Reason: pdu.RejectProtocol}).Append(nil), digests)
	}
	f.Fuzz(func(t *testing.T, data []byte, digests bool) {
		h.say(data)
		c, err := net.Dial("tcp", h.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		par := params{immediate: true, maxSend: 8192, maxRecv: 64 << 10, maxBurst: 64 << 10, firstBurst: 4096, headerDigest: digests, dataDigest: digests}
		l := &login{cmdSN: 1}
		l.last.MaxCmdSN = 2
		s, err := newSession(Config{Timeout: 10 * time.Second}, c.(*net.TCPConn), l, par)
		if err != nil {
			t.Fatal(err)
		}
		// The refresh that a unit attention starts ends with the session.
		s.shape.Store(&shape{geometry: blockdev.Geometry{SizeBytes: 1 << 20, BlockSize: 4096}, maxTransfer: 1 << 20})
		s.zero = make([]byte, 4096)
		var wg sync.WaitGroup
		var batch []*blockdev.Request
		for _, op := range []blockdev.Op{blockdev.OpRead, blockdev.OpWrite, blockdev.OpRead} {
			wg.Add(1)
			batch = append(batch, &blockdev.Request{Op: op, Length: 8192, Data: [][]byte{make([]byte, 3000), make([]byte, 5192)},
				Done: func(*blockdev.Request) { wg.Done() }})
		}
		s.Submit(batch)
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// Whatever a target answers to a login, it ends.
func FuzzLogin(f *testing.F) {
	h := newHostileTarget(f)
	answer := func(r pdu.LoginResponse, keys ...string) []byte {
		var text []byte
		for i := 0; i < len(keys); i += 2 {
			text = pdu.AppendPair(text, keys[i], keys[i+1])
		}
		r.DataLen = len(text)
		b := append(r.Append(nil), text...)
		return append(b, make([]byte, pdu.Pad(len(text)))...)
	}
	security := answer(pdu.LoginResponse{Transit: true, NSG: 1}, "AuthMethod", "None")
	operational := answer(pdu.LoginResponse{Transit: true, CSG: 1, NSG: 3}, "MaxBurstLength", "1", "FirstBurstLength", "x")
	f.Add(append(append([]byte(nil), security...), operational...))
	f.Add(answer(pdu.LoginResponse{Status: pdu.LoginMovedTemporarily}, "TargetAddress", "127.0.0.1:1,1"))
	f.Add(answer(pdu.LoginResponse{Continue: true}, "CHAP_A", "5"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h.say(data)
		cfg := Config{Address: h.ln.Addr().String(), Target: "t", Timeout: 5 * time.Second}
		if err := cfg.fill(); err != nil {
			t.Fatal(err)
		}
		conn, _, par, err := connectOnce(t.Context(), &cfg, cfg.Address)
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			return
		}
		if par.maxSend < 512 || par.maxBurst < 512 || par.firstBurst < 512 {
			t.Errorf("%+v", par)
		}
		_ = conn.Close()
	})
}
