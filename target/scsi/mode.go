package scsi

import (
	"sync/atomic"
)

// modeState is what MODE SELECT can change, as bits of one word, so that the
// data path reads it without a lock.
type modeState struct{ word atomic.Uint32 }

const (
	modeDSense uint32 = 1 << iota // control page: descriptor format sense data
	modeSWP                       // control page: software write protect
	modeTAS                       // control page: TASK ABORTED status
	modeWCE                       // caching page: write-back cache enabled
	modeLBPERE                    // error recovery page: tell of provisioning thresholds
)

func (m *modeState) descriptorSense() bool   { return m.word.Load()&modeDSense != 0 }
func (m *modeState) writeProtected() bool    { return m.word.Load()&modeSWP != 0 }
func (m *modeState) taskAbortedStatus() bool { return m.word.Load()&modeTAS != 0 }
func (m *modeState) tellsOfSpace() bool      { return m.word.Load()&modeLBPERE != 0 }
func (m *modeState) writeCache() bool        { return m.word.Load()&modeWCE != 0 }

// reset puts the default values back: nothing is saved (PS=0).
func (m *modeState) reset(lu *LU) { m.word.Store(modeDefaults(lu.conf.Load())) }

func modeDefaults(c *UnitConfig) uint32 {
	if c.WriteCache {
		return modeWCE | modeLBPERE
	}
	return modeLBPERE
}
