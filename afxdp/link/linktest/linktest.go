// Package linktest is what every kind of link.Link must pass. It tests what
// the interface promises about buffers, limits, waiting and closing, over a
// pair of Links of which each can reach the other.
package linktest

import (
	"testing"

	"blockd.dev/afxdp/link"
)

// Suite says how to test one kind of Link.
type Suite struct {
	// Open makes two Links that reach each other, and nothing else, without
	// loss. What it opens it closes by t.Cleanup; a second Close must do no harm.
	Open func(t *testing.T) (a, b link.Link)
	// Allocates is set for a Link that is for tests and may allocate.
	Allocates bool
	// Virtual runs f where time passes only when everybody waits; nil where
	// time is real.
	Virtual func(t *testing.T, f func(t *testing.T))
}

// Run runs the suite as subtests of t.
func Run(t *testing.T, s Suite) {
	tests := []struct {
		name string
		f    func(*testing.T, Suite)
	}{
		{"says what it is", describes},
		{"carries datagrams of every length", everyLength},
		{"keeps order within a batch of mixed lengths", mixedBatch},
		{"lends each send buffer once", lendsOnce},
		{"lends no more than it has", lendsWhatItHas},
		{"leaves received buffers to their holder", heldBuffers},
		{"drops what is too long and goes on", tooLong},
		{"goes on when the receiver is slow", slowReceiver},
		{"wakes", wakes},
		{"waits as long as it was told", waits},
		{"waits for what it watches", watches},
		{"is closed for good", closes},
		{"is closed while others look on", closesUnderObservation},
		{"counts", counts},
		{"does not allocate", allocates},
	}
	for _, k := range tests {
		t.Run(k.name, func(t *testing.T) {
			if s.Virtual != nil {
				s.Virtual(t, func(t *testing.T) { k.f(t, s) })
			} else {
				k.f(t, s)
			}
		})
	}
}
