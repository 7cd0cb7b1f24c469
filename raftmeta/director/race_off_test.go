//go:build !race

package director

// simSeeds is how many clusters TestSimulation has, and mistakeSeeds how many
// may pass before TestSimulationFindsMistakes gives up.
const (
	simSeeds     = 15
	mistakeSeeds = 80
)
