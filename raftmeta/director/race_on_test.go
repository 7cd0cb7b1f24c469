//go:build race

package director

// The race detector is slow, and what it looks for is not in the seeds. The
// mistakes are looked for without it.
const (
	simSeeds     = 4
	lossSeeds    = 2
	diskSeeds    = 1
	mistakeSeeds = 0
)
