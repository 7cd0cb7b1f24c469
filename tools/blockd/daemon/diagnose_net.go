package daemon

import (
	"blockd.dev/afxdp"
	blockdv1 "blockd.dev/raftmeta/api/blockd/v1"
)

// diagnoseNetwork says how well the machine is set up for the wire between
// nodes. It asks kernel and drivers, which takes some milliseconds, so it is for
// the doctor and not for readiness.
func diagnoseNetwork() []*blockdv1.Finding {
	var out []*blockdv1.Finding
	for _, f := range afxdp.Examine(afxdp.Scope{}) {
		out = append(out, &blockdv1.Finding{Level: string(f.Level), Subject: f.Subject, Message: f.Message, Advice: f.Advice})
	}
	return out
}
