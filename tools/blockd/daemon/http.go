package daemon

import (
	"context"
	_ "embed" // the status page
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"blockd.dev/raftmeta/api/blockd/v1/blockdv1connect"
	"blockd.dev/raftmeta/control"
)

//go:embed status.html
var statusPage []byte

// handler is the control API, metrics, health and the status page.
func (d *Daemon) handler() http.Handler {
	methods := http.NewServeMux()
	api{d}.register(methods)

	registry := prometheus.NewRegistry()
	registry.MustRegister(newCollector(d), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	methods.Handle("GET /metrics", control.Require(control.NeedViewer, promhttp.HandlerFor(registry, promhttp.HandlerOpts{})))
	methods.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if state := d.nodeState(); state != "ready" {
			answer(w, http.StatusServiceUnavailable, state+"; see `blockctl doctor`")
			return
		}
		answer(w, http.StatusOK, "ready")
	})

	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if c := control.From(r.Context()); c.Node != "" && d.catalog.State().IsRevoked(parseID(c.Node), c.Serial) {
			errorWriter.Write(w, r, connect.NewError(connect.CodeUnauthenticated, errRevoked))
			return
		}
		// Until the node has read the catalog it can only say how the cluster is.
		if !d.read.Load() && r.URL.Path != blockdv1connect.ClusterServiceGetClusterProcedure {
			errorWriter.Write(w, r, connect.NewError(connect.CodeUnavailable, errStarting))
			return
		}
		methods.ServeHTTP(w, r)
	})
	// Alive: the process answers. Ready: every portal listens and nothing is
	// broken.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'")
		if _, err := w.Write(statusPage); err != nil {
			d.log.Debug("status page not sent", zap.String("event", "http.write"), zap.Error(err))
		}
	})
	return mux
}

// errRevoked is for who goes on after it was removed: its certificate is valid for a year.
var errRevoked = errors.New("the certificate of this node was revoked: the node was removed from the cluster, or was given another one since; to take part again, wipe its data directory and let it join anew")

var errStarting = errors.New("this node is starting, and waits for a majority of the cluster's nodes; see `blockctl cluster status`")

// errorWriter answers in the form that the client's protocol has for errors.
var errorWriter = plainErrors{connect.NewErrorWriter()}

type plainErrors struct{ connect *connect.ErrorWriter }

// Write answers with err.
func (e plainErrors) Write(w http.ResponseWriter, r *http.Request, err *connect.Error) {
	if e.connect.IsSupported(r) {
		_ = e.connect.Write(w, r, err) // a client that is gone needs no answer
		return
	}
	answer(w, http.StatusServiceUnavailable, err.Message())
}

// newServer serves h with the limits of the control API. ctx ends the requests
// that would last for ever.
func newServer(ctx context.Context, h http.Handler, log *zap.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true) // gRPC clients
	return &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          zap.NewStdLog(log),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       control.ConnContext,
	}
}

// serveHTTP serves the control port until Stop.
func (d *Daemon) serveHTTP(ctx context.Context) {
	d.web = d.handler()
	if d.plane.port == nil {
		return
	}
	d.http = newServer(ctx, d.web, d.log)
	listener := d.plane.port.API()
	d.background.Go(func() {
		if err := d.http.Serve(listener); !errors.Is(err, http.ErrServerClosed) && !d.stopping.Load() {
			d.events.add(levelError, "api.failed", d.APIAddress(), err.Error())
		}
	})
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	fmt.Fprintln(w, text) // a client that is gone needs no answer
}
