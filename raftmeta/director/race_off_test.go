//go:build !race

package director

// simSeeds is how many clusters TestSimulation has, lossSeeds how many TestSimulationOfLoss
// has, and mistakeSeeds how many
// may pass before TestSimulationFindsMistakes gives up.
const (
	simSeeds     = 15
	lossSeeds    = 8
	diskSeeds    = 3
	mistakeSeeds = 80
)
