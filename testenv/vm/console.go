package vm

import (
	"bytes"
	"regexp"
)

// complaint matches what a kernel prints when something is wrong with it or
// with the disks under it.
var complaint = regexp.MustCompile(`BUG: |WARNING: CPU|WARNING: possible|INFO: task .* blocked for more than|INFO: rcu_.* detected|` +
	`soft lockup|Kernel panic|Oops: |general protection fault|Call Trace:|kernel BUG at|Out of memory: |segfault at |` +
	`EXT4-fs error|XFS .*: (Corruption|Metadata corruption|metadata I/O error)|Remounting filesystem read-only`)

// complaints returns the lines of a console that a run must not have.
func complaints(console []byte) []string {
	var found []string
	for line := range bytes.Lines(console) {
		if line = bytes.TrimSpace(line); complaint.Match(line) {
			found = append(found, string(line))
		}
	}
	return found
}
