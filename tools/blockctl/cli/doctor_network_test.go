package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"blockd.dev/afxdp/netlab"
)

// TestDoctorNetwork looks at a host with one interface and one peer, without a
// blockd, and fails when a peer can't be reached.
func TestDoctorNetwork(t *testing.T) {
	lab, err := netlab.New(netlab.Config{MTU: 9000})
	if err != nil {
		t.Fatal(err)
	}
	defer lab.Close()
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := lab.A.Do(func() error {
			c := New()
			c.SetArgs(append([]string{"doctor", "network"}, args...))
			c.SetOut(&out)
			return c.Execute()
		})
		return out.String(), err
	}
	out, err := run("--interface", "eth0", "--peer", lab.B.IPv4.String(), "--peer", lab.B.IPv6.String(), "-o", "json")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var found []findingView
	if err := json.Unmarshal([]byte(out), &found); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"network eth0": "xdp-copy", "network peer " + lab.B.IPv4.String(): lab.B.MAC.String(), "network peer " + lab.B.IPv6.String(): lab.B.MAC.String(),
		"network locked memory": "", "network huge pages": "", "network kernel": "",
	}
	for _, f := range found {
		if says, ok := want[f.Subject]; ok && strings.Contains(f.Message, says) {
			delete(want, f.Subject)
		}
	}
	if len(want) > 0 {
		t.Errorf("%s lacks %v", out, want)
	}
	if out, err := run("--interface", "eth0", "--interface", "eth7"); !errors.Is(err, errUnhealthy) || !strings.Contains(out, "eth7") {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := run("--peer", "beside"); err == nil || !strings.Contains(err.Error(), "want an IP address") {
		t.Error(err)
	}
}
