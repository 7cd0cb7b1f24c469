//go:build race

package iscsihost

const raceEnabled = true
