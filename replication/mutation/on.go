//go:build mutations

package mutation

// Planted is the mistake that is in force. One simulation runs at a time.
var Planted M

// On tells whether m is planted.
func On(m M) bool { return m == Planted && m != None }
