//go:build race

package store_test

// The race detector makes everything several times slower.
const cutsByDefault = 500
