package nvmetcp_test

import (
	"errors"
	"testing"

	"blockd.dev/target/auth"
	"blockd.dev/target/nvme"
	"blockd.dev/target/nvmetcp"
	"blockd.dev/target/nvmetcp/nvmehost"
)

// With DiscoveryAuth a host proves itself to the discovery subsystem, on both
// kinds of port, before it learns anything; without, nobody is asked.
func TestDiscoveryAuthentication(t *testing.T) {
	good := key(t, 32, auth.DHSHA256)
	dir := directory{policy: auth.NVMePolicy{Host: good}}
	b := newBed(t, nvmetcp.Limits{Authentications: 1}, dir)
	for _, required := range []bool{false, true} {
		if err := b.server.Configure(nvmetcp.Config{Auth: dir, DiscoveryAuth: required}); err != nil {
			t.Fatal(err)
		}
		for _, addr := range []string{b.addr, b.discovery} {
			for name, tc := range map[string]struct {
				key auth.DHKey
				ok  bool
			}{"right": {good, true}, "wrong": {key(t, 32, auth.DHSHA256), !required}, "none": {auth.DHKey{}, !required}} {
				cfg := b.config()
				cfg.Addr, cfg.SubNQN, cfg.Key = addr, nvme.DiscoveryNQN, tc.key
				h, err := nvmehost.Dial(cfg)
				if (err == nil) != tc.ok || err != nil && !errors.Is(err, auth.ErrAuth) {
					t.Errorf("required %v, key %s: %v", required, name, err)
				}
				if err != nil {
					continue
				}
				if _, err := h.LogPage(0x70, 0, 1024); err != nil {
					t.Errorf("discovery log page: %v", err)
				}
				h.Close()
			}
		}
	}
	// Who may not connect learns nothing.
	if err := b.server.Configure(nvmetcp.Config{Auth: directory{err: auth.ErrNotAllowed}, DiscoveryAuth: true}); err != nil {
		t.Fatal(err)
	}
	cfg := b.config()
	cfg.SubNQN = nvme.DiscoveryNQN
	var refused *nvmehost.StatusError
	if _, err := nvmehost.Dial(cfg); !errors.As(err, &refused) || nvme.Status(refused.Status).Code() != nvme.ConnectInvalidHost {
		t.Errorf("a host that is not allowed: %v", err)
	}
}
