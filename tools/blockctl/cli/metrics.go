package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// metricsMax bounds what is read of a node's metrics, in bytes.
const metricsMax = 32 << 20

// counts are what a node has counted for a volume and one direction.
type counts struct {
	ops, bytes     float64
	timed, seconds float64 // requests whose time was taken, and the sum of it
}

// add adds d, times sign.
func (c counts) add(d counts, sign float64) counts {
	return counts{c.ops + sign*d.ops, c.bytes + sign*d.bytes, c.timed + sign*d.timed, c.seconds + sign*d.seconds}
}

// volumeCounts are the counts of a volume.
type volumeCounts struct{ read, write counts }

// nodeCounts are what one node has counted since it started.
type nodeCounts struct {
	volumes  map[string]volumeCounts
	sessions int // of iSCSI, and controllers of NVMe
}

// scrape reads the metrics of the node that l leads to.
func scrape(ctx context.Context, l *link) (nodeCounts, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, baseURL+"/metrics", nil)
	if err != nil {
		return nodeCounts{}, err
	}
	res, err := l.http().Do(req)
	if err != nil {
		return nodeCounts{}, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 200)) // best effort: the status says most
		return nodeCounts{}, fmt.Errorf("its metrics: %s: %s", res.Status, strings.TrimSpace(string(text)))
	}
	return parseMetrics(io.LimitReader(res.Body, metricsMax))
}

// parseMetrics reads Prometheus's text format 0.0.4, of which it keeps what
// top shows.
func parseMetrics(r io.Reader) (nodeCounts, error) {
	out := nodeCounts{volumes: map[string]volumeCounts{}}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, "blockd_") {
			continue
		}
		name, labels, value, err := parseSample(line)
		if err != nil {
			return out, fmt.Errorf("its metrics: %w", err)
		}
		out.take(name, labels, value)
	}
	return out, lines.Err()
}

func (n *nodeCounts) take(name string, labels map[string]string, value float64) {
	switch {
	case name == "blockd_iscsi_sessions", name == "blockd_nvme_controllers" && labels["type"] == "nvm":
		n.sessions += int(value)
		return
	case !strings.HasPrefix(name, "blockd_volume_"):
		return
	}
	v := n.volumes[labels["volume"]]
	var c *counts
	switch labels["op"] {
	case "read":
		c = &v.read
	case "write", "write-zeroes", "compare-and-write":
		c = &v.write
	default: // flushes and unmaps have other sizes and times than what moves data
		return
	}
	switch name {
	case "blockd_volume_ops_total":
		c.ops += value
	case "blockd_volume_bytes_total":
		c.bytes += value
	case "blockd_volume_latency_seconds_sum":
		c.seconds += value
	case "blockd_volume_latency_seconds_count":
		c.timed += value
	}
	n.volumes[labels["volume"]] = v
}

var errSample = errors.New("a line that is no sample")

// parseSample reads NAME{LABEL="VALUE",...} NUMBER.
func parseSample(line string) (name string, labels map[string]string, value float64, err error) {
	i := strings.IndexAny(line, "{ ")
	if i < 0 {
		return "", nil, 0, errSample
	}
	name, rest := line[:i], line[i:]
	labels = map[string]string{}
	if rest[0] == '{' {
		rest = rest[1:]
		for !strings.HasPrefix(rest, "}") {
			key, after, ok := strings.Cut(rest, "=")
			if !ok {
				return "", nil, 0, errSample
			}
			quoted, err := strconv.QuotedPrefix(after)
			if err != nil {
				return "", nil, 0, errSample
			}
			text, err := strconv.Unquote(quoted)
			if err != nil {
				return "", nil, 0, errSample
			}
			labels[key] = text
			rest = strings.TrimPrefix(after[len(quoted):], ",")
		}
		rest = rest[1:]
	}
	number, _, _ := strings.Cut(strings.TrimSpace(rest), " ") // a time may follow
	if value, err = strconv.ParseFloat(number, 64); err != nil {
		return "", nil, 0, errSample
	}
	return name, labels, value, nil
}
