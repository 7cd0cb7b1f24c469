//go:build race

package nvmetcp_test

// raceEnabled: the race detector allocates on its own.
const raceEnabled = true
