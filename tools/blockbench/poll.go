package main

import (
	"errors"

	"blockd.dev/internal/adaptive"
)

// pollFlag is a flag that says how a host waits for its sockets.
type pollFlag struct{ cfg *adaptive.Config }

// String implements pflag.Value.
func (p pollFlag) String() string { return p.cfg.Mode.String() }

// Type implements pflag.Value.
func (p pollFlag) Type() string { return "mode" }

// Set implements pflag.Value. A socket is not polled for ever.
func (p pollFlag) Set(s string) error {
	m, err := adaptive.ParseMode(s)
	if err == nil && m == adaptive.Busy {
		err = errors.New("give adaptive or interrupt")
	}
	p.cfg.Mode = m
	return err
}
