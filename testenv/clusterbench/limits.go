package clusterbench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Limits are what a rebuild can't be faster than, in MB/s.
type Limits struct {
	Disk float64 `json:"disk_mb_per_s"` // the file system's, that reads and writes as much at the same time, in order
	Link float64 `json:"link_mb_per_s"` // one connection of the kernel's TCP between two nodes
	// Plain is what the two are together, on this machine: a file that is read on one node, sent by that connection and
	// written on the other, durable in the end. Nodes that share their processors can't come near to the least of the others.
	Plain float64 `json:"plain_mb_per_s"`
}

// least is the one that counts for the goal.
func (l Limits) least() float64 { return min(l.Disk, l.Link) }

// limits measures them, while the cluster is idle.
func (b *bench) limits(ctx context.Context) (l Limits, err error) {
	if l.Disk, err = copyRate(ctx, filepath.Join(b.cfg.Dir, "copy"), b.cfg.Runtime); err != nil {
		return l, err
	}
	if l.Link, err = b.linkRate(ctx, "n1", "n2"); err != nil {
		return l, err
	}
	l.Plain, err = b.plainRate(ctx, filepath.Join(b.cfg.Dir, "plain"), "n1", "n2")
	fmt.Fprintf(b.w, "  the disk copies %.0f MB/s, the link moves %.0f MB/s, a plain copy from node to node %.0f MB/s\n", l.Disk, l.Link, l.Plain)
	return l, err
}

// copyRate works in dir, which it makes and removes.
func copyRate(ctx context.Context, dir string, runtime time.Duration) (mbps float64, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	f, err := fio(ctx, dir, "--rw=rw", "--rwmixread=50", "--bs=1m", "--iodepth=8", "--size=512m", "--overwrite=1", "--end_fsync=1",
		"--time_based", "--runtime="+wholeSeconds(runtime))
	return f.Write.Bytes / 1e6, err
}

const (
	linkPort     = 7999      // free in the nodes' namespaces
	linkMessage  = "1048576" // bytes
	linkPatience = 10 * time.Second
)

// linkRate sends from one node to another.
func (b *bench) linkRate(ctx context.Context, from, to string) (mbps float64, err error) {
	return b.between(ctx, from, to, func(fromIP, local string) (serve, run []string) {
		shape := []string{"--kind", "tcp", "--request", linkMessage}
		return append([]string{"serve", "--local", local, "--peer", fromIP}, shape...),
			append([]string{"run", local, "--local", net.JoinHostPort(fromIP, "0"), "--depth", "8", "-o", "json"}, shape...)
	})
}

// plainRate copies a file in dir, which it makes and removes, from one node to another.
func (b *bench) plainRate(ctx context.Context, dir, from, to string) (mbps float64, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return b.between(ctx, from, to, func(_, local string) (serve, run []string) {
		return []string{"take", filepath.Join(dir, "to"), "--local", local}, []string{"give", filepath.Join(dir, "from"), local}
	})
}

// between has `blockbench net` serve on one node and run on another, and returns the rate that it prints. args is told the
// address of the one that runs, and what the other listens on.
func (b *bench) between(ctx context.Context, from, to string, args func(fromIP, local string) (serve, run []string)) (mbps float64, err error) {
	st, err := b.c.Status()
	if err != nil {
		return 0, err
	}
	at := map[string]string{}
	for _, n := range st.Nodes {
		at[n.Name] = n.IPv4.String()
	}
	program := filepath.Join(b.cfg.BinDir, "blockbench")
	serveArgs, runArgs := args(at[from], net.JoinHostPort(at[to], strconv.Itoa(linkPort)))
	ctx, stop := context.WithTimeout(ctx, b.cfg.Runtime+linkPatience)
	defer stop() // ends the server
	serve, err := b.c.Command(ctx, to, append([]string{program, "net"}, serveArgs...)...)
	if err != nil {
		return 0, err
	}
	listens, err := serve.StdoutPipe()
	if err != nil {
		return 0, err
	}
	var words bytes.Buffer
	serve.Stderr = &words
	if err := serve.Start(); err != nil {
		return 0, err
	}
	defer func() { stop(); _ = serve.Wait() }()
	// It says where it listens once it does.
	if _, err := listens.Read(make([]byte, 256)); err != nil {
		return 0, fmt.Errorf("blockbench net %s on %s: %w: %s", serveArgs[0], to, err, &words)
	}
	run, err := b.c.Command(ctx, from, append(append([]string{program, "net"}, runArgs...), "--runtime", b.cfg.Runtime.String())...)
	if err != nil {
		return 0, err
	}
	out, err := run.Output()
	var doc struct {
		MBps float64 `json:"megabytes_per_second"`
	}
	if err == nil {
		err = json.Unmarshal(out, &doc)
	}
	if err != nil {
		return 0, fmt.Errorf("blockbench net %s from %s to %s: %w: %s%s", runArgs[0], from, to, err, out, &words)
	}
	return doc.MBps, nil
}
