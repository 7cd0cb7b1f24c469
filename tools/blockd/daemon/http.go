package daemon

import (
	"context"
	_ "embed" // the status page
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

//go:embed status.html
var statusPage []byte

// serveHTTP serves control API, metrics, health and the status page until Stop.
// ctx ends the requests that would last for ever.
func (d *Daemon) serveHTTP(ctx context.Context) {
	mux := http.NewServeMux()
	api{d}.register(mux)

	registry := prometheus.NewRegistry()
	registry.MustRegister(newCollector(d), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))

	// Alive: the process answers. Ready: every portal listens and nothing is
	// broken.
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if state := d.nodeState(); state != "ready" {
			answer(w, http.StatusServiceUnavailable, state+"; see `blockctl doctor`")
			return
		}
		answer(w, http.StatusOK, "ready")
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'")
		if _, err := w.Write(statusPage); err != nil {
			d.log.Debug("status page not sent", zap.String("event", "http.write"), zap.Error(err))
		}
	})

	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true) // gRPC clients
	d.http = &http.Server{
		Handler:           mux,
		Protocols:         protocols,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          zap.NewStdLog(d.log),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	d.background.Go(func() {
		if err := d.http.Serve(d.api); !errors.Is(err, http.ErrServerClosed) {
			d.events.add(levelError, "api.failed", d.APIAddress(), err.Error())
		}
	})
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	fmt.Fprintln(w, text) // a client that is gone needs no answer
}
