//go:build !race

package nvmetcp_test

const raceEnabled = false
