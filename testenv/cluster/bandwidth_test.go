package cluster

import "testing"

func TestParseBandwidth(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "100mbit": 100e6, "2.5gbit": 2.5e9, "2.5Gbit": 2.5e9, "100gbit": 100e9} {
		got, err := ParseBandwidth(s)
		if got != want || err != nil {
			t.Errorf("%s: %d, %v; want %d", s, got, err, want)
		}
		if again, err := ParseBandwidth(FormatBandwidth(want)); again != want || err != nil {
			t.Errorf("%s, written and read: %d, %v", FormatBandwidth(want), again, err)
		}
	}
	for _, s := range []string{"", "1", "gbit", "-1mbit", "NaNmbit", "Infgbit", "101gbit", "1kbit", "1e300gbit"} {
		if got, err := ParseBandwidth(s); err == nil {
			t.Errorf("%q was taken for %d", s, got)
		}
	}
}
