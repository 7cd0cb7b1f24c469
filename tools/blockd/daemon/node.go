package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/zap"

	"blockd.dev/raftmeta/pki"
)

// Node is blockd on a machine: the daemon, and the socket in its data
// directory. The socket stays while making or joining a cluster starts the
// daemon anew, so that whoever asked for it there gets an answer.
type Node struct {
	cfg    Config
	log    *zap.Logger
	data   *dataDir
	socket net.Listener
	server *http.Server

	ctx    context.Context // ends with Stop
	cancel context.CancelFunc
	wg     sync.WaitGroup
	broken chan error // a daemon that could not be started anew

	turn   sync.Mutex             // held by who starts and stops the daemon
	daemon atomic.Pointer[Daemon] // that answers; nil while there is none
}

// StartNode brings a node up: when it returns every portal listens, and, for a
// member of a cluster, a majority of the voters has been found. The socket
// answers before that. ctx ends the start.
func StartNode(ctx context.Context, cfg Config, log *zap.Logger) (_ *Node, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	n := &Node{cfg: cfg, log: log, broken: make(chan error, 1)}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			sctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
			defer cancel()
			err = errors.Join(err, n.Stop(sctx))
		}
	}()
	if n.data, err = openDataDir(cfg.Data); err != nil {
		return nil, err
	}
	if n.socket, err = n.data.listenSocket(); err != nil {
		return nil, err
	}
	n.server = newServer(n.ctx, n, log)
	n.wg.Go(func() { _ = n.server.Serve(n.socket) }) // until Stop
	n.turn.Lock()
	d, err := n.start(ctx)
	n.turn.Unlock()
	if err != nil {
		return nil, err
	}
	if cfg.Join != "" && d.plane.creds == nil {
		token, err := pki.ParseToken(cfg.Join)
		if err == nil {
			_, err = d.join(ctx, token, nil)
		}
		if err != nil {
			return nil, fmt.Errorf("--join: %w", err)
		}
	}
	return n, nil
}

// Daemon is what runs now. It is nil for a moment while the node starts anew.
func (n *Node) Daemon() *Daemon { return n.daemon.Load() }

// start starts the daemon, with n.turn held.
func (n *Node) start(ctx context.Context) (*Daemon, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.ctx, cancel)()
	d, err := launch(ctx, n.cfg, n.log, n.data, func(d *Daemon) {
		d.renew = n.renew
		n.daemon.Store(d)
	})
	if err != nil {
		n.daemon.Store(nil)
	}
	return d, err
}

// renew stops the daemon, has the data directory changed, and starts the daemon
// that it is then. It returns when that one is ready.
func (n *Node) renew(change func(*dataDir) error) (*Daemon, error) {
	n.turn.Lock()
	defer n.turn.Unlock()
	old := n.daemon.Swap(nil)
	if old == nil || n.ctx.Err() != nil {
		return nil, errors.New("the node is stopping")
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	err := old.Stop(ctx)
	cancel()
	if err == nil {
		err = change(n.data)
	}
	var d *Daemon
	if err == nil {
		d, err = n.start(n.ctx)
	}
	if err != nil {
		select {
		case n.broken <- err:
		default: // it was told of before
		}
	}
	return d, err
}

// Broken gets the reason when the daemon could not be started anew; the
// process should end then, and try again.
func (n *Node) Broken() <-chan error { return n.broken }

// ServeHTTP implements http.Handler for the socket.
func (n *Node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d := n.daemon.Load()
	if d == nil {
		errorWriter.Write(w, r, connect.NewError(connect.CodeUnavailable, errors.New("this node is starting; ask again in a moment")))
		return
	}
	d.web.ServeHTTP(w, r)
}

// Stop drains and takes everything down.
func (n *Node) Stop(ctx context.Context) error {
	n.cancel()
	n.turn.Lock()
	defer n.turn.Unlock()
	var errs []error
	if d := n.daemon.Load(); d != nil {
		errs = append(errs, d.Stop(ctx))
	}
	if n.server != nil {
		sctx, cancel := context.WithTimeout(ctx, time.Second)
		if err := n.server.Shutdown(sctx); err != nil {
			errs = append(errs, n.server.Close())
		}
		cancel()
		errs = append(errs, os.Remove(n.data.join(fileSocket)))
	}
	n.wg.Wait()
	if n.data != nil {
		errs = append(errs, n.data.close())
	}
	return errors.Join(errs...)
}

// listenSocket makes the control socket. It takes the place of one that a
// process has left that was killed, under its final name only when nobody but its
// owner may open it.
func (d *dataDir) listenSocket() (net.Listener, error) {
	// The path of a socket has at most 107 bytes (unix(7)); by way of the
	// directory's descriptor it always fits.
	dir, err := os.Open(d.path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	path := fmt.Sprintf("/proc/self/fd/%d/%s.new", dir.Fd(), fileSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket in %s: %w", d.path, err)
	}
	l.SetUnlinkOnClose(false) // under its first name it is gone
	err = os.Chmod(path, 0o600)
	if err == nil {
		err = os.Rename(path, d.join(fileSocket))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("control socket in %s: %w", d.path, err), l.Close())
	}
	return l, nil
}
