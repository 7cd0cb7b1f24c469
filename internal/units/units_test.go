package units

import "testing"

func TestParseBytes(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "4096": 4096, "4096B": 4096, "1KiB": 1024, "10GiB": 10 << 30, "10 gib": 10 << 30, "10G": 10 << 30,
		"1.5TiB": 3 << 39, "0.5M": 1 << 19, "7EiB": 7 << 60, "9223372036854775807": 1<<63 - 1,
	} {
		if got, err := ParseBytes(s); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "GiB", "-1", "1.5", "10GB", "10 GiB x", "8EiB", "9223372036854775808", "1e3", "0x10",
		"1..5G", "1.G", ".5G.", "+1", "nan", "infG", "99999999.5EiB"} {
		if got, err := ParseBytes(s); err == nil {
			t.Errorf("%q is %d", s, got)
		}
	}
}

func TestFormatBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 512: "512B", 4096: "4KiB", 1 << 30: "1GiB", 3 << 29: "1.5GiB",
		10<<30 + 1: "10.0GiB", -1 << 20: "-1MiB", 1<<63 - 1: "8.0EiB"} {
		if got := FormatBytes(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}

func FuzzParseBytes(f *testing.F) {
	f.Add("1.5TiB")
	f.Add("9223372036854775807E")
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := ParseBytes(s); err == nil && n < 0 {
			t.Fatalf("%q is %d", s, n)
		}
	})
}
