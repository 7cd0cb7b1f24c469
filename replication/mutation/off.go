//go:build !mutations

package mutation

// On tells whether m is planted: never, in this build.
func On(M) bool { return false }
