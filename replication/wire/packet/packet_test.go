package packet

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestVarintsRoundTrip(t *testing.T) {
	for _, v := range []uint64{0, 1, 63, 64, 16383, 16384, 1<<30 - 1, 1 << 30, varintMax} {
		b := appendVarint(nil, v)
		got, n := varint(append(b, 0xff))
		if got != v || n != len(b) {
			t.Errorf("%d: %x decodes to %d, %d bytes", v, b, got, n)
		}
		for i := range b {
			if _, n := varint(b[:i]); n != 0 {
				t.Errorf("%d: %x cut to %d bytes decodes", v, b, i)
			}
		}
	}
}

func TestHeadersRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := Header{
			Type:   Type(rapid.IntRange(int(TypeInitial), int(TypeReset)).Draw(t, "type")),
			Number: rapid.Uint64Max(NumberMax).Draw(t, "number"),
			Dest:   ConnID(rapid.Uint64().Draw(t, "dest")),
		}
		h.Phase = h.Type == TypeData && rapid.Bool().Draw(t, "phase")
		if h.Hinted = h.Type == TypeData && rapid.Bool().Draw(t, "hinted"); h.Hinted {
			h.Hint = rapid.Uint64().Draw(t, "hint")
		}
		b := h.Append(nil)
		got, err := DecodeHeader(b)
		if len(b) != h.Len() || err != nil || got != h {
			t.Fatalf("%+v: %x decodes to %+v, %v", h, b, got, err)
		}
		if _, err := DecodeHeader(b[:len(b)-1]); err == nil {
			t.Fatalf("%+v: %x decodes without its last byte", h, b)
		}
		// Where who counts packets looks for it (package bpf).
		if h.Hinted != (b[0]&0x08 != 0) || h.Hinted && binary.BigEndian.Uint64(b[16:]) != h.Hint {
			t.Fatalf("%+v: the hint is not where it should be in %x", h, b)
		}
	})
	for _, first := range []byte{0, 0x30, 0xa0, 0x51, 0x58, 0x62, 0x64, 0x98} {
		b := make([]byte, HeaderLen+HintLen)
		b[0] = first
		if h, err := DecodeHeader(b); err == nil {
			t.Errorf("%#x is taken for %+v", first, h)
		}
	}
}

// anyFrame draws one frame and its encoding.
func anyFrame(t *rapid.T) (f Frame, b []byte) {
	number := rapid.Uint64Max(varintMax)
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		m := Message{
			ID: rapid.Uint64Range(1, varintMax).Draw(t, "id"), Kind: uint8(rapid.IntRange(1, 3).Draw(t, "message kind")),
			Data:      rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "data"),
			Channel:   uint16(rapid.IntRange(0, ChannelMax).Draw(t, "channel")),
			Remaining: time.Duration(rapid.IntRange(0, 1000000).Draw(t, "µs")) * time.Microsecond,
		}
		m.Offset = uint64(rapid.IntRange(0, MessageMax-100).Draw(t, "offset"))
		m.Total = min(MessageMax, m.Offset+uint64(len(m.Data))+uint64(rapid.IntRange(0, 1000).Draw(t, "rest")))
		if m.Channel != 0 {
			m.Sequence = number.Draw(t, "sequence")
		}
		if m.Kind == 3 {
			m.InReplyTo = number.Draw(t, "reply")
		}
		f = Frame{Type: FrameMessage, Message: m}
		head := AppendMessageHead(nil, &m, len(m.Data))
		if len(head) > MessageHeadMax {
			t.Fatalf("a head of %d bytes", len(head))
		}
		b = append(head, m.Data...)
	case 1:
		f, b = Frame{Type: FramePing}, AppendPing(nil)
	case 2:
		c := Crypto{Offset: uint64(rapid.IntRange(0, 1<<20).Draw(t, "offset")), Data: rapid.SliceOfN(rapid.Byte(), 1, 100).Draw(t, "data")}
		f, b = Frame{Type: FrameCrypto, Crypto: c}, AppendCrypto(nil, c)
	case 3:
		c := Cancel{
			ID: rapid.Uint64Range(1, varintMax).Draw(t, "id"), Started: rapid.Bool().Draw(t, "started"), Request: rapid.Bool().Draw(t, "request"),
			Total: rapid.Uint64Max(MessageMax).Draw(t, "total"), Channel: uint16(rapid.IntRange(0, ChannelMax).Draw(t, "channel")), Sequence: number.Draw(t, "sequence"),
		}
		f, b = Frame{Type: FrameCancel, Cancel: c}, AppendCancel(nil, &c)
		if len(b) > CancelLenMax {
			t.Fatalf("a cancel of %d bytes", len(b))
		}
	case 4, 5:
		c := Credit{number.Draw(t, "bytes"), number.Draw(t, "messages")}
		ft := rapid.SampledFrom([]FrameType{FrameCredit, FrameBlocked}).Draw(t, "type")
		f, b = Frame{Type: ft, Credit: c}, AppendCredit(nil, ft, c)
	case 6, 7:
		v := rapid.Uint64().Draw(t, "value")
		ft := rapid.SampledFrom([]FrameType{FrameChallenge, FrameResponse}).Draw(t, "type")
		f, b = Frame{Type: ft, Challenge: v}, AppendChallenge(nil, ft, v)
	case 8:
		c := Close{Code: CloseCode(rapid.IntRange(0, int(CloseViolation)).Draw(t, "code")), Reason: rapid.SliceOfN(rapid.Byte(), 1, ReasonMax).Draw(t, "reason")}
		f, b = Frame{Type: FrameClose, Close: c}, AppendClose(nil, c.Code, string(c.Reason))
	case 9:
		ranges := anyRanges(t)
		b = AppendAck(nil, ranges, 7*time.Microsecond)
		if len(b) > AckLenMax(len(ranges)) {
			t.Fatalf("%d ranges take %d bytes", len(ranges), len(b))
		}
		var got Frame
		if _, err := DecodeFrame(b, &got); err != nil || got.Ack.Delay != 7*time.Microsecond || got.Ack.Largest != ranges[0].Last {
			t.Fatalf("%v: %+v, %v", ranges, got.Ack, err)
		}
		a := got.Ack
		for i, r := 0, a.Newest(); ; i++ {
			if i >= len(ranges) || r != ranges[i] {
				t.Fatalf("range %d is %v, want %v", i, r, ranges)
			}
			var ok bool
			if r, ok = a.Older(r); !ok {
				if i+1 != len(ranges) {
					t.Fatalf("%d of %d ranges", i+1, len(ranges))
				}
				break
			}
		}
		f = Frame{Type: FrameAck, Ack: got.Ack}
	}
	return f, b
}

func anyRanges(t *rapid.T) (ranges []Range) {
	low := rapid.Uint64Range(1000000, NumberMax).Draw(t, "largest")
	for range rapid.IntRange(1, RangesMax).Draw(t, "count") {
		length := rapid.Uint64Max(1000).Draw(t, "length")
		ranges = append(ranges, Range{low - length, low})
		low -= length + 2 + rapid.Uint64Max(1000).Draw(t, "gap")
	}
	return ranges
}

func TestFramesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all []byte
		var want []Frame
		for range rapid.IntRange(1, 5).Draw(t, "frames") {
			f, b := anyFrame(t)
			want, all = append(want, f), append(all, b...)
		}
		for _, f := range want {
			var got Frame
			rest, err := DecodeFrame(all, &got)
			if err != nil {
				t.Fatalf("%+v: %v", f, err)
			}
			all = rest
			if f.Type == FrameAck { // compared above; what follows it in memory differs
				continue
			}
			if !reflect.DeepEqual(got, f) {
				t.Fatalf("got %+v, want %+v", got, f)
			}
		}
		if len(all) != 0 {
			t.Fatalf("%d bytes left", len(all))
		}
	})
}

// Every cut of a frame is an error or a frame that ends there.
func TestCutFramesAreErrors(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		_, b := anyFrame(t)
		for n := 1; n < len(b); n++ {
			var f Frame
			if rest, err := DecodeFrame(b[:n:n], &f); err == nil {
				t.Fatalf("%x cut to %d is %v with %d left", b, n, f.Type, len(rest))
			}
		}
	})
}

func TestNonsenseIsRefused(t *testing.T) {
	for name, b := range map[string][]byte{
		"unknown type":                 {0x3f},
		"ack of nothing":               {2, 5, 0, 0, 0},
		"ack below zero":               {2, 5, 0, 1, 6},
		"ack gap below zero":           {2, 5, 0, 2, 0, 5, 0},
		"message without kind":         {0x44, 1, 0},
		"message 0":                    {0x54, 0, 0},
		"message flag 8":               {0x5c, 1, 0},
		"channel flag, channel 0":      {0x55, 1, 0, 0, 0},
		"piece beyond the total":       {0x50, 1, 2, 1, 2, 'a', 'b'},
		"piece without bytes":          {0x50, 1, 2, 1, 0},
		"cancel of 0":                  {4, 0, 0, 0, 0, 0},
		"cancel with unknown flag":     {4, 4, 1, 0, 0, 0},
		"close with unknown code":      {9, 3, 0},
		"message longer than the most": append([]byte{0x54, 1}, appendVarint(nil, MessageMax+1)...),
	} {
		var f Frame
		if _, err := DecodeFrame(b, &f); err == nil {
			t.Errorf("%s: %x is taken for %+v", name, b, f)
		}
	}
}

func TestParamsRoundTrip(t *testing.T) {
	p := Params{
		Source: 1 << 63, ResetToken: [16]byte{1, 2, 3}, DatagramMax: 8900, Credit: Credit{1 << 30, 1000},
		AckDelay: 25 * time.Microsecond, Features: 1<<63 | 5,
	}
	b := p.Append(nil)
	if got, err := DecodeParams(b); err != nil || got != p {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := DecodeParams(append(b, 60, 2, 9, 9)); err != nil || got != p {
		t.Errorf("with one of a later version: %+v, %v", got, err)
	}
	for n := range b {
		if got, err := DecodeParams(b[:n]); err == nil && (got.Source == 0 || got.DatagramMax == 0) {
			t.Errorf("cut to %d: %+v", n, got)
		}
	}
}

// A hello in which any bit is flipped is not taken for one.
func TestDamagedHellosAreRefused(t *testing.T) {
	h := Header{Type: TypeInitial, Number: 3}
	in := InitialHead{Version: Version, Source: 77, Token: []byte("token")}
	hello := in.Append(h.Append(nil))
	hello = AppendChecksum(append(hello, make([]byte, DatagramMin-4-len(hello))...))
	want := Route{Kind: Hello, Source: 77, Version: Version, Token: []byte("token")}
	if got, err := Inspect(hello); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
	for bit := range len(hello) * 8 {
		b := bytes.Clone(hello)
		b[bit/8] ^= 1 << (bit % 8)
		if got, err := Inspect(b); err == nil && got.Kind == Hello {
			t.Errorf("bit %d flipped: %+v", bit, got)
		}
	}
	if got, err := Inspect(hello[:DatagramMin-1]); err == nil {
		t.Errorf("a short hello: %+v", got)
	}
}

func TestRoutes(t *testing.T) {
	hello := Route{Source: 9}
	data := Header{Type: TypeData, Dest: 8}
	for _, c := range []struct {
		b    []byte
		want Route
	}{
		{AppendRetry(nil, hello, []byte("x")), Route{Kind: Reply, Dest: 9}},
		{AppendRefusal(nil, hello), Route{Kind: Reply, Dest: 9}},
		{AppendReset(nil, 7, [ResetTokenLen]byte{}), Route{Kind: Reset, Dest: 7}},
		{append(data.Append(nil), make([]byte, 17)...), Route{Kind: Known, Dest: 8}},
	} {
		if got, err := Inspect(c.b); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%x: %+v, %v, want %+v", c.b, got, err, c.want)
		}
	}
	// What is as short as a reset is not answered by one.
	if got, err := Inspect(append(data.Append(nil), make([]byte, 16)...)); err == nil {
		t.Errorf("%+v", got)
	}
}

// FuzzDecode gives arbitrary bytes to every decoder.
func FuzzDecode(f *testing.F) {
	f.Add(AppendAck(nil, []Range{{9, 12}, {1, 2}}, time.Millisecond))
	f.Add(AppendCancel(nil, &Cancel{ID: 1, Started: true, Total: 5}))
	f.Add((&Params{Source: 1, DatagramMax: 1200}).Append(nil))
	f.Add(AppendRetry(nil, Route{Source: 1}, []byte("token")))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = Inspect(b)
		_, _ = DecodeRetry(b)
		_, _ = DecodeRefusal(b)
		_, _ = DecodeReset(b)
		_, _ = DecodeParams(b)
		_, _, _ = DecodeInitial(b)
		var f Frame
		for rest := b; len(rest) > 0; {
			next, err := DecodeFrame(rest, &f)
			if err != nil {
				return
			}
			if len(next) >= len(rest) {
				t.Fatal("no progress")
			}
			if f.Type == FrameAck {
				low := f.Ack.Largest + 1
				for r, ok := f.Ack.Newest(), true; ok; r, ok = f.Ack.Older(r) {
					if r.First > r.Last || r.Last >= low {
						t.Fatalf("range %v below %d", r, low)
					}
					low = r.First
				}
			}
			rest = next
		}
	})
}
