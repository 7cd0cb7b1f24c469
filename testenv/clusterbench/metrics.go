package clusterbench

import (
	"context"
	"fmt"
	"net"
	"net/http"

	"blockd.dev/testenv/cluster"
)

// metrics asks a node by its control socket. The keys are as in the text: name{labels}. It is not compressed, which
// would cost the node more than all the rest of the answer.
func metrics(ctx context.Context, socket string) (map[string]float64, error) {
	transport := &http.Transport{DisableKeepAlives: true, DisableCompression: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://blockd/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("/metrics answers %s", resp.Status)
	}
	return cluster.ParseMetrics(resp.Body)
}
