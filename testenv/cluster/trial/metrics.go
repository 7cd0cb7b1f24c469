package trial

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"blockd.dev/testenv/cluster"
)

// metrics asks a node for what it counts. The keys are as in the text: name{labels}.
func (t *Trial) metrics(ctx context.Context, node string) (map[string]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	client, address, err := t.c.Client(node)
	if err != nil {
		return nil, err
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("trial: /metrics of %s answers %s", node, resp.Status)
	}
	return cluster.ParseMetrics(resp.Body)
}

// sum adds up a metric over all its labels.
func sum(metrics map[string]float64, name string) (total float64) {
	for key, v := range metrics {
		if series, _, _ := strings.Cut(key, "{"); series == name {
			total += v
		}
	}
	return total
}

// counter is what a counter of the volume was at each node.
type counter struct {
	t      *Trial
	metric string
	was    map[string]float64
}

// count begins to count how much a counter of the volume grows.
func (t *Trial) count(ctx context.Context, metric string) (*counter, error) {
	c := &counter{t: t, metric: metric}
	var err error
	c.was, err = c.now(ctx)
	return c, err
}

func (c *counter) now(ctx context.Context) (map[string]float64, error) {
	now := map[string]float64{}
	for _, name := range c.t.names() {
		m, err := c.t.metrics(ctx, name)
		if err != nil {
			return nil, err
		}
		now[name] = m[c.metric]
	}
	return now, nil
}

// grown is by how much it has grown, at all nodes. One that was started since begins at 0.
func (c *counter) grown(ctx context.Context) (total float64, err error) {
	now, err := c.now(ctx)
	for name, v := range now {
		total += max(0, v-c.was[name])
	}
	return total, err
}
