package daemon

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// ctxForever is for waits that end with the node.
var ctxForever = context.Background()

// blockSizeDefault is the logical block size of volumes that don't say: disk
// images and hypervisors expect 512, and aligned requests cost the same.
const blockSizeDefault = 512

// Run starts a node, prints "blockd ready" to stdout once every portal listens,
// and stops it when a signal arrives. A second signal ends the process at once,
// as kill -9 would.
func Run(cfg Config, stdout io.Writer, log *zap.Logger, signals <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	first, done := make(chan os.Signal, 1), make(chan struct{})
	defer close(done)
	go func() {
		select {
		case sig := <-signals:
			first <- sig
			cancel() // a start that waits for other nodes
		case <-done:
			return
		}
		select {
		case sig := <-signals:
			log.Error("stopping at once", zap.String("event", "node.kill"), zap.Stringer("signal", sig))
			os.Exit(1)
		case <-done:
		}
	}()
	n, err := StartNode(ctx, cfg, log)
	if err != nil {
		if ctx.Err() != nil {
			return nil // it was told to stop while it started
		}
		return err
	}
	if cfg.Dev {
		err = n.Daemon().PrintGuide(stdout)
	}
	if err == nil {
		_, err = fmt.Fprintln(stdout, "blockd ready")
	}
	if err == nil {
		select {
		case sig := <-first:
			if d := n.Daemon(); d != nil {
				d.events.add(levelInfo, "node.stop", d.nodeName(), fmt.Sprintf("stopping on %v", sig))
			}
		case err = <-n.Broken():
		}
	}
	sctx, scancel := context.WithTimeout(context.Background(), stopTimeout)
	defer scancel()
	if serr := n.Stop(sctx); err == nil {
		err = serr
	}
	return err
}

// NewLogger writes JSON lines to w. docs/OPERATIONS.md has the keys.
func NewLogger(level string, w io.Writer) (*zap.Logger, error) {
	lv, err := zapcore.ParseLevel(level)
	if err != nil {
		return nil, fmt.Errorf("log level: %w", err)
	}
	enc := zap.NewProductionEncoderConfig()
	enc.TimeKey, enc.MessageKey = "time", "message"
	enc.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	enc.EncodeDuration = func(d time.Duration, e zapcore.PrimitiveArrayEncoder) { e.AppendString(d.String()) }
	core := zapcore.NewCore(zapcore.NewJSONEncoder(enc), zapcore.Lock(zapcore.AddSync(w)), lv)
	return zap.New(core), nil
}
