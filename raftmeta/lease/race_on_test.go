//go:build race

package lease

// modelSeeds is how many clusters TestModel simulates; the race detector is slow.
const modelSeeds = 300
