//go:build !race

package lease

// modelSeeds is how many clusters TestModel simulates.
const modelSeeds = 10_000
