package iscsi

import (
	"testing"

	"blockd.dev/target/iscsi/pdu"
	"pgregory.net/rapid"
)

// sender is an initiator's side of a transfer, written from the RFC: it sends
// immediate data, unsolicited data, and what R2Ts ask for.
func TestTransferTakesEveryLegalShape(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := defaultParams()
		p.InitialR2T = rapid.Bool().Draw(t, "InitialR2T")
		p.ImmediateData = rapid.Bool().Draw(t, "ImmediateData")
		p.MaxBurst = rapid.IntRange(512, 4096).Draw(t, "MaxBurst")
		p.FirstBurst = rapid.IntRange(512, p.MaxBurst).Draw(t, "FirstBurst")
		edtl := rapid.IntRange(1, 20000).Draw(t, "EDTL")
		want := edtl
		if rapid.Bool().Draw(t, "short CDB") {
			want = rapid.IntRange(0, edtl).Draw(t, "want")
		}
		seg := rapid.IntRange(100, 3000).Draw(t, "segment")
		limit := rapid.IntRange(1, maxOutstandingR2T).Draw(t, "R2Ts")

		c := &pdu.SCSICommand{Write: true, Expected: uint32(edtl), Final: true}
		first := min(edtl, p.FirstBurst)
		if p.ImmediateData {
			c.DataLen = min(seg, first)
		}
		c.Final = p.InitialR2T || c.DataLen == first
		var x transfer
		x.begin(&p, c, want, 7)
		sent := c.DataLen
		send := func(ttt uint32, off, n int) {
			for sn := uint32(0); n > 0; sn++ {
				m := min(n, seg)
				d := pdu.DataOut{TTT: ttt, DataSN: sn, Offset: uint32(off), DataLen: m, Final: m == n}
				if keep, known := x.dataOut(&d); !keep || !known {
					t.Fatalf("%+v: kept %v known %v: problem %d", d, keep, known, x.problem)
				}
				off, n, sent = off+m, n-m, sent+m
			}
		}
		if !c.Final {
			send(pdu.NoTag, sent, first-sent)
		}
		type ask struct {
			ttt    uint32
			off, n int
		}
		for !x.ready() {
			var asks []ask
			for {
				_, ttt, off, n, ok := x.r2t(limit)
				if !ok {
					break
				}
				if n > p.MaxBurst || n == 0 || off+n > want {
					t.Fatalf("R2T for %d bytes at %d of %d", n, off, want)
				}
				asks = append(asks, ask{ttt, off, n})
			}
			if len(asks) == 0 || len(asks) > limit {
				t.Fatalf("%d R2Ts with %d of %d there", len(asks), sent, want)
			}
			for _, a := range asks {
				send(a.ttt, a.off, a.n)
			}
		}
		if x.problem != problemNone || sent < want || x.next != sent {
			t.Fatalf("ended with problem %d, %d of %d bytes", x.problem, x.next, want)
		}
	})
}

func TestTransferRefusals(t *testing.T) {
	base := defaultParams()
	base.InitialR2T = false
	base.FirstBurst, base.MaxBurst = 1024, 2048
	noImm, yesR2T := base, base
	noImm.ImmediateData = false
	yesR2T.InitialR2T = true
	data := func(ttt, sn uint32, off, n int, final bool) *pdu.DataOut {
		return &pdu.DataOut{TTT: ttt, DataSN: sn, Offset: uint32(off), DataLen: n, Final: final}
	}
	solicited := func(x *transfer) uint32 { _, ttt, _, _, _ := x.r2t(1); return ttt }
	const tag = 7 << 16
	for name, tc := range map[string]struct {
		p     Params
		cmd   pdu.SCSICommand
		pdus  []*pdu.DataOut
		want  problem
		ready bool
	}{
		"immediate data not agreed":  {noImm, pdu.SCSICommand{Final: true, DataLen: 512}, nil, problemUnsolicited, true},
		"immediate data over burst":  {base, pdu.SCSICommand{Final: true, DataLen: 1025}, nil, problemAmount, true},
		"unsolicited not agreed":     {yesR2T, pdu.SCSICommand{}, nil, problemUnsolicited, false},
		"the same, once it has come": {yesR2T, pdu.SCSICommand{}, []*pdu.DataOut{data(pdu.NoTag, 0, 0, 512, true)}, problemUnsolicited, true},
		"unsolicited over burst":     {base, pdu.SCSICommand{}, []*pdu.DataOut{data(pdu.NoTag, 0, 0, 1025, true)}, problemAmount, true},
		"DataSN jumps":               {base, pdu.SCSICommand{}, []*pdu.DataOut{data(pdu.NoTag, 1, 0, 512, true)}, problemLost, true},
		"offset jumps":               {base, pdu.SCSICommand{}, []*pdu.DataOut{data(pdu.NoTag, 0, 512, 512, true)}, problemLost, true},
		"problem waits for F":        {base, pdu.SCSICommand{}, []*pdu.DataOut{data(pdu.NoTag, 9, 0, 512, false)}, problemLost, false},
		"less than the R2T":          {base, pdu.SCSICommand{Final: true}, []*pdu.DataOut{data(tag, 0, 0, 512, true)}, problemAmount, true},
		"more than the R2T":          {base, pdu.SCSICommand{Final: true}, []*pdu.DataOut{data(tag, 0, 0, 2049, true)}, problemAmount, true},
		"end of the R2T without F":   {base, pdu.SCSICommand{Final: true}, []*pdu.DataOut{data(tag, 0, 0, 2048, false)}, problemAmount, true},
		"tag of another R2T":         {base, pdu.SCSICommand{Final: true}, []*pdu.DataOut{data(tag|3, 0, 0, 2048, true)}, problemLost, true},
	} {
		var x transfer
		tc.cmd.Write, tc.cmd.Expected = true, 8192
		x.begin(&tc.p, &tc.cmd, 8192, 7)
		solicited(&x)
		for _, d := range tc.pdus {
			x.dataOut(d)
		}
		if x.problem != tc.want || x.ready() != tc.ready {
			t.Errorf("%s: problem %d ready %v, want %d %v", name, x.problem, x.ready(), tc.want, tc.ready)
		}
	}
	var x transfer
	x.begin(&base, &pdu.SCSICommand{Write: true, Final: true, Expected: 8192}, 8192, 7)
	if _, known := x.dataOut(data(tag, 0, 0, 512, false)); known {
		t.Error("data is taken that no R2T asked for")
	}
	solicited(&x)
	for _, ttt := range []uint32{pdu.NoTag, 8 << 16} {
		if _, known := x.dataOut(data(ttt, 0, 0, 512, false)); known {
			t.Errorf("data with tag %#x is taken", ttt)
		}
	}
}
