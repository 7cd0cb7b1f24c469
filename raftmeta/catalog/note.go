package catalog

import (
	"regexp"

	"blockd.dev/raftmeta/catalog/catalogpb"
)

var actionPattern = regexp.MustCompile(`^[a-z]+(\.[a-z-]+)+$`)

// note puts into the audit log what somebody did that changes nothing here.
func (f *fold) note(c *catalogpb.Note) error {
	if !actionPattern.MatchString(c.GetAction()) {
		return refuse(ErrInvalid, "a note of the action %q: want one such as certificate.issue", c.GetAction())
	}
	f.did(c.GetAction(), c.GetSubject(), "%s", c.GetDetail())
	f.failed = c.GetRefused()
	return nil
}
