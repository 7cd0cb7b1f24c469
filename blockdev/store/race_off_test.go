//go:build !race

package store_test

const cutsByDefault = 20000
