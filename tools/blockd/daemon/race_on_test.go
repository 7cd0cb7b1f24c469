//go:build race

package daemon

// raceEnabled: the race detector makes pools drop things at random.
const raceEnabled = true
