package packet

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// slowSum is the checksum as RFC 1071 §4.1 has it, over big-endian words.
func slowSum(b []byte) uint16 {
	var s uint32
	for i := 0; i < len(b); i += 2 {
		w := uint32(b[i]) << 8
		if i+1 < len(b) {
			w |= uint32(b[i+1])
		}
		if s += w; s > 0xFFFF {
			s = s&0xFFFF + 1
		}
	}
	return uint16(s)
}

// same tells whether two ones' complement numbers are equal: zero has two forms.
func same(a, b uint16) bool { return a == b || a%0xFFFF == 0 && b%0xFFFF == 0 }

func TestSumIsTheInternetChecksum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.OneOf(rapid.Byte(), rapid.Just(byte(0xFF))), 0, 300).Draw(t, "bytes")
		cut := rapid.IntRange(0, len(b)/2).Draw(t, "cut") * 2
		got := swap16(fold(sum(b[cut:], sum(b[:cut], 0))))
		if want := slowSum(b); !same(got, want) {
			t.Fatalf("%#04x, want %#04x", got, want)
		}
	})
}

func headers() *rapid.Generator[Header] {
	return rapid.Custom(func(t *rapid.T) Header {
		mac := rapid.SliceOfN(rapid.Byte(), 6, 6)
		h := Header{
			Source: MAC(mac.Draw(t, "source")), Destination: MAC(mac.Draw(t, "destination")),
		}
		for i := range rapid.IntRange(0, TagsMax).Draw(t, "tags") {
			h.Tags[i] = Tag{rapid.SampledFrom([]uint16{etherVLAN, etherQinQ}).Draw(t, "protocol"), rapid.Uint16Range(1, 4094).Draw(t, "vlan")}
		}
		n := 16
		if rapid.Bool().Draw(t, "ipv4") {
			n = 4
		}
		addr := func(label string) netip.AddrPort {
			a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, label))
			return netip.AddrPortFrom(a, rapid.Uint16().Draw(t, label+" port"))
		}
		h.From, h.To = addr("from"), addr("to")
		return h
	})
}

// TestPutThenParse: what is written is read, whatever padding follows; the
// checksums are right by the slow sum; and every truncation is refused.
func TestPutThenParse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := headers().Draw(t, "header")
		payload := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "payload")
		is4 := h.From.Addr().Is4()
		n := HeaderLen(is4, &h.Tags)
		frame := append(bytes.Repeat([]byte{0xEE}, n), payload...)
		h.Put(frame[:n], frame[n:])
		padded := append(bytes.Clone(frame), make([]byte, rapid.IntRange(0, 20).Draw(t, "padding"))...)
		got, data, err := Parse(padded)
		if err != nil || got != h || !bytes.Equal(data, payload) {
			t.Fatalf("%v: %+v %x, want %+v %x", err, got, data, h, payload)
		}
		udp := frame[n-udpLen:]
		if is4 {
			if udp[6] != 0 || udp[7] != 0 {
				t.Fatal("a UDP checksum over IPv4")
			}
			if ip := frame[n-udpLen-ipv4Len:][:ipv4Len]; slowSum(ip) != 0xFFFF {
				t.Fatalf("the IPv4 header sums to %#04x", slowSum(ip))
			}
		} else {
			ip := frame[n-udpLen-ipv6Len:]
			pseudo := append(bytes.Clone(ip[8:40]), 0, 0, ip[4], ip[5], 0, 0, 0, protoUDP)
			if s := slowSum(append(pseudo, udp...)); s != 0xFFFF || udp[6] == 0 && udp[7] == 0 {
				t.Fatalf("the UDP datagram sums to %#04x, checksum %x", s, udp[6:8])
			}
		}
		for cut := range frame {
			if _, _, err := Parse(frame[:cut]); err == nil {
				t.Fatalf("%d of %d bytes were accepted", cut, len(frame))
			}
		}
	})
}

// local is a datagram in the form that Linux leaves on a veth, written by hand:
// its UDP checksum is the sum of the pseudo-header only, since no NIC has filled
// it in. (The end-to-end tests of xdplink see real ones.)
const local = `
	0262 0000 0002 0262 0000 0001 0800
	4500 0022 1c46 4000 4011 0a83 0a00 0001 0a00 0002
	9c40 1b58 000e 1422
	6865 6c6c 6f0a`

func fromHex(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic(err)
	}
	return b
}

func TestUnfilledChecksumIsTaken(t *testing.T) {
	h, payload, err := Parse(fromHex(local))
	if err != nil || string(payload) != "hello\n" || h.From.String() != "10.0.0.1:40000" || h.To.String() != "10.0.0.2:7000" || h.Tags != [TagsMax]Tag{} {
		t.Fatalf("%v: %+v %q", err, h, payload)
	}
}

// TestBadFramesAreNamed breaks one field at a time.
func TestBadFramesAreNamed(t *testing.T) {
	resum := func(f []byte) {
		f[24], f[25] = 0, 0
		binary.LittleEndian.PutUint16(f[24:], ^fold(sum(f[14:34], 0)))
	}
	v6 := func() []byte {
		h := Header{From: netip.MustParseAddrPort("[fd00::1]:1"), To: netip.MustParseAddrPort("[fd00::2]:2")}
		f := make([]byte, HeaderLen(false, &h.Tags)+3)
		h.Put(f[:len(f)-3], f[len(f)-3:])
		return f
	}
	for name, c := range map[string]struct {
		want  error
		frame func(f []byte) []byte
	}{
		"ARP": {ErrNotUDP, func(f []byte) []byte { f[13] = 6; return f }},
		"three tags": {ErrTaggedDeep, func(f []byte) []byte {
			return append(append(f[:12:12], 0x88, 0xA8, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3), f[12:]...)
		}},
		"version":        {ErrBadHeader, func(f []byte) []byte { f[14] = 0x55; return f }},
		"short header":   {ErrBadHeader, func(f []byte) []byte { f[14] = 0x44; return f }},
		"short total":    {ErrBadHeader, func(f []byte) []byte { f[17] = 19; return f }},
		"first fragment": {ErrFragment, func(f []byte) []byte { f[20] = 0x20; resum(f); return f }},
		"later fragment": {ErrFragment, func(f []byte) []byte { f[21] = 1; resum(f); return f }},
		"TCP":            {ErrNotUDP, func(f []byte) []byte { f[23] = 6; resum(f); return f }},
		"checksum":       {ErrBadSum, func(f []byte) []byte { f[25]++; return f }},
		"long UDP":       {ErrTruncated, func(f []byte) []byte { f[39]++; return f }},
		"short UDP":      {ErrBadHeader, func(f []byte) []byte { f[39] = 7; return f }},
		"no payload":     {ErrNoPayload, func(f []byte) []byte { f[39] = 8; return f }},
		"v6 version":     {ErrBadHeader, func([]byte) []byte { f := v6(); f[14] = 0x40; return f }},
		"v6 extension":   {ErrNotUDP, func([]byte) []byte { f := v6(); f[20] = 0; return f }},
		"v6 length":      {ErrTruncated, func([]byte) []byte { f := v6(); f[19]++; return f }},
	} {
		if _, _, err := Parse(c.frame(fromHex(local))); err != c.want {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestOptionsAreSteppedOver: IPv4 with options is rare and legal.
func TestOptionsAreSteppedOver(t *testing.T) {
	f := fromHex(local)
	f = append(append(f[:34:34], 1, 1, 1, 0), f[34:]...) // NOP NOP NOP END
	f[14], f[17] = 0x46, f[17]+4
	f[24], f[25] = 0, 0
	binary.LittleEndian.PutUint16(f[24:], ^fold(sum(f[14:38], 0)))
	if _, payload, err := Parse(f); err != nil || string(payload) != "hello\n" {
		t.Fatalf("%v: %q", err, payload)
	}
}

// FuzzParse: nothing panics, and what is taken can be written and read again.
func FuzzParse(f *testing.F) {
	f.Add(fromHex(local))
	for _, tag := range []Tag{{}, {etherVLAN, 7}} {
		h := Header{Tags: [TagsMax]Tag{tag}, From: netip.MustParseAddrPort("[fd00::1]:1"), To: netip.MustParseAddrPort("[fd00::2]:2")}
		b := make([]byte, HeaderLen(false, &h.Tags)+3)
		h.Put(b[:len(b)-3], b[len(b)-3:])
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		h, payload, err := Parse(frame)
		if err != nil {
			return
		}
		if len(payload) == 0 || len(payload) > len(frame) {
			t.Fatalf("payload of %d bytes from a frame of %d", len(payload), len(frame))
		}
		n := HeaderLen(h.From.Addr().Is4(), &h.Tags)
		again := append(make([]byte, n), payload...)
		h.Put(again[:n], again[n:])
		h2, payload2, err := Parse(again)
		if err != nil || h2 != h || !bytes.Equal(payload, payload2) {
			t.Fatalf("%v: %+v became %+v", err, h, h2)
		}
	})
}

func TestCodecDoesNotAllocate(t *testing.T) {
	h := Header{Tags: [TagsMax]Tag{{etherQinQ, 3}, {etherVLAN, 4}}, From: netip.MustParseAddrPort("[fd00::1]:1"), To: netip.MustParseAddrPort("[fd00::2]:2")}
	b := make([]byte, HeadersMax+100)
	if n := testing.AllocsPerRun(100, func() {
		h.Put(b[:HeadersMax], b[HeadersMax:])
		if _, _, err := Parse(b); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPut(b *testing.B) {
	for name, h := range map[string]Header{
		"IPv4": {From: netip.MustParseAddrPort("10.0.0.1:1"), To: netip.MustParseAddrPort("10.0.0.2:2")},
		"IPv6": {From: netip.MustParseAddrPort("[fd00::1]:1"), To: netip.MustParseAddrPort("[fd00::2]:2")},
	} {
		b.Run(name, func(b *testing.B) {
			n := HeaderLen(h.From.Addr().Is4(), &h.Tags)
			frame := make([]byte, n+4200)
			for b.Loop() {
				h.Put(frame[:n], frame[n:])
			}
		})
	}
}

func BenchmarkParse(b *testing.B) {
	frame := fromHex(local)
	for b.Loop() {
		if _, _, err := Parse(frame); err != nil {
			b.Fatal(err)
		}
	}
}
