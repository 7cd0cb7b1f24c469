package secure

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"time"

	"blockd.dev/replication/wire"
)

// handshakeBytesMax bounds what a peer can make us keep: three certificates
// and their signatures take below 4 KiB.
const handshakeBytesMax = 32 << 10

// Config is what a Handshake needs to know.
type Config struct {
	Credentials *Credentials
	// Now is the wall-clock time that certificates are checked against.
	Now time.Time
	// Versions of the protocol that this node speaks, best first, as names for
	// TLS's ALPN (RFC 7301). At least one.
	Versions []string
	// WantNode is the node that a client wants to talk to; empty for whichever
	// answers.
	WantNode string
}

// Handshake is one side of a TLS 1.3 handshake, a wire.Handshake. It is not
// safe for concurrent use. It must be closed.
type Handshake struct {
	tls      *tls.QUICConn
	peer     Identity // set by the check of its certificate
	steps    []wire.Step
	received int
	started  bool
	err      error
}

var _ wire.Handshake = (*Handshake)(nil)

// NewClient makes the side that speaks first.
func NewClient(cfg Config) (*Handshake, error) { return newHandshake(cfg, tls.QUICClient, true) }

// NewServer makes the side that is spoken to.
func NewServer(cfg Config) (*Handshake, error) { return newHandshake(cfg, tls.QUICServer, false) }

func newHandshake(cfg Config, role func(*tls.QUICConfig) *tls.QUICConn, client bool) (*Handshake, error) {
	if _, err := cfg.Credentials.Self(); err != nil {
		return nil, err
	}
	if len(cfg.Versions) == 0 {
		return nil, fmt.Errorf("%w: this node offers none", ErrVersion)
	}
	h := &Handshake{}
	h.tls = role(&tls.QUICConfig{TLSConfig: &tls.Config{
		Certificates:           []tls.Certificate{cfg.Credentials.Certificate},
		MinVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519},
		NextProtos:             cfg.Versions,
		Time:                   func() time.Time { return cfg.Now },
		SessionTicketsDisabled: true,
		// Chain, dates and name of the peer are checked by VerifyConnection, on
		// both sides alike: crypto/tls would look for a host's name.
		InsecureSkipVerify: true,
		ClientAuth:         tls.RequireAnyClientCert,
		VerifyConnection: func(cs tls.ConnectionState) (err error) {
			h.peer, err = cfg.Credentials.verify(cs.PeerCertificates, cfg.Now, client, cfg.WantNode)
			return err
		},
	}})
	return h, nil
}

// Start begins. params are for the peer to read: TLS carries them as QUIC's
// transport parameters (RFC 9001 §8.2), authenticated, without a look at them.
func (h *Handshake) Start(params []byte) error {
	if h.err != nil || h.started {
		return errors.Join(h.err, fmt.Errorf("%w: started twice, or after its end", ErrHandshake))
	}
	h.started = true
	h.tls.SetTransportParameters(slices.Clone(params))
	h.err = explain(h.tls.Start(context.Background()))
	if h.err == nil {
		h.err = h.collect()
	}
	return h.err
}

// Receive takes handshake bytes that the peer sent at level, in order and each
// once; it keeps no reference. What comes of them is in Next. An error is
// final, and its text is worth telling the peer.
func (h *Handshake) Receive(level wire.Level, data []byte) error {
	if h.err != nil || len(data) == 0 {
		return h.err
	}
	h.received += len(data)
	switch {
	case !h.started:
		return fmt.Errorf("%w: not started", ErrHandshake)
	case level >= wire.LevelData:
		h.err = fmt.Errorf("%w: message after its end", ErrHandshake)
	case h.received > handshakeBytesMax:
		h.err = fmt.Errorf("%w: more than %d bytes came", ErrHandshake, handshakeBytesMax)
	default:
		h.err = explain(h.tls.HandleData(tlsLevel(level), data))
		if err := h.collect(); h.err == nil {
			h.err = err
		}
	}
	if h.err != nil {
		h.steps = nil
	}
	return h.err
}

// Next returns what is to be done next, if anything is. The Peer of StepDone
// is a Peer.
func (h *Handshake) Next() (wire.Step, bool) {
	if len(h.steps) == 0 {
		return wire.Step{}, false
	}
	s := h.steps[0]
	h.steps = h.steps[1:]
	return s, true
}

// Close ends the handshake's goroutine, at whatever stage it is. It may be
// called again.
func (h *Handshake) Close() {
	if h.started {
		_ = h.tls.Close() // it returns the handshake's error, as Receive did
	}
	h.steps = nil
	if h.err == nil {
		h.err = fmt.Errorf("%w: closed", ErrHandshake)
	}
}

// collect turns what crypto/tls has to say into steps. It reports the end of
// the handshake before it gives the last key; here StepDone is the last step.
func (h *Handshake) collect() error {
	var done []wire.Step
	for {
		event := h.tls.NextEvent()
		step := wire.Step{Level: levelOf(event.Level)}
		switch event.Kind {
		case tls.QUICNoEvent:
			h.steps = append(h.steps, done...)
			return nil
		case tls.QUICErrorEvent:
			return explain(event.Err)
		case tls.QUICWriteData:
			step.Kind, step.Data = wire.StepSend, slices.Clone(event.Data)
		case tls.QUICTransportParameters:
			step.Kind, step.Data = wire.StepParams, slices.Clone(event.Data)
		case tls.QUICSetReadSecret, tls.QUICSetWriteSecret:
			key, err := keyOf(event)
			if err != nil {
				return err
			}
			if event.Kind == tls.QUICSetWriteSecret {
				step.Kind, step.Sealer = wire.StepSealer, &Sealer{key: key}
			} else {
				step.Kind, step.Opener = wire.StepOpener, &Opener{key: key}
			}
		case tls.QUICHandshakeDone:
			step.Kind, step.Peer = wire.StepDone, Peer{h.peer, h.tls.ConnectionState().NegotiatedProtocol}
			done = append(done, step)
			continue
		default:
			return fmt.Errorf("%w: event %d of crypto/tls was not asked for", ErrHandshake, event.Kind)
		}
		h.steps = append(h.steps, step)
	}
}

func keyOf(event tls.QUICEvent) (*key, error) {
	suite, err := suiteOf(event.Suite)
	if err != nil {
		return nil, err
	}
	return newKey(suite, slices.Clone(event.Data))
}

func tlsLevel(l wire.Level) tls.QUICEncryptionLevel {
	if l == wire.LevelInitial {
		return tls.QUICEncryptionLevelInitial
	}
	return tls.QUICEncryptionLevelHandshake
}

func levelOf(l tls.QUICEncryptionLevel) wire.Level {
	switch l {
	case tls.QUICEncryptionLevelInitial:
		return wire.LevelInitial
	case tls.QUICEncryptionLevelHandshake:
		return wire.LevelHandshake
	}
	return wire.LevelData
}
