package nvmetcp

import (
	"runtime"

	"blockd.dev/target/auth"
	"blockd.dev/target/nvme"
)

// authGate bounds how many connections compute for an authentication at once. One
// exponentiation in the largest group takes tens of milliseconds, and whoever knows
// the name of a host can ask for it: beyond the gate, readers of connections that
// have not proved themselves wait for each other, and not the hosts that have.
type authGate chan struct{}

// gateDefault is a quarter of the processors, at least one.
func gateDefault() int { return max(1, runtime.GOMAXPROCS(0)/4) }

// pass runs compute when it is the connection's turn; false when the server shut
// down before.
func (c *conn) pass(compute func()) bool {
	if !c.auth.Authenticated() {
		select {
		case c.srv.authGate <- struct{}{}:
			defer func() { <-c.srv.authGate }()
		case <-c.srv.mu.stop:
			return false
		}
	}
	compute()
	return true
}

// policy asks the directory what the host must prove.
func (c *conn) policy(r *nvme.ConnectRequest) (auth.NVMePolicy, nvme.Status) {
	cfg := c.srv.cfg.Load()
	discovery := r.SubNQN == nvme.DiscoveryNQN
	switch {
	case discovery && !cfg.DiscoveryAuth:
		return auth.NVMePolicy{}, nvme.Success
	case !discovery && c.discoveryOnly:
		return auth.NVMePolicy{}, nvme.ConnectInvalidParameters | nvme.DNR
	}
	p, err := cfg.Auth.NVMeHost(r.HostNQN)
	if err != nil {
		return p, nvme.ConnectInvalidHost // no DNR: it may be let in later
	}
	return p, nvme.Success
}
