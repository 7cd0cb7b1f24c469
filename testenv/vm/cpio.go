package vm

import (
	"fmt"
	"io"
	"io/fs"
)

// cpioWriter writes an archive in the "newc" format, the one that the kernel
// unpacks as its initial filesystem (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
//
// A member is a header of 110 characters, its name with a final NUL, padding
// to 4 bytes, its content, padding to 4 bytes:
//
//	"070701" ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
//
// each number as 8 hexadecimal digits. Owners and times are all zero, so that
// equal inputs give equal archives.
type cpioWriter struct {
	w      io.Writer
	offset int64
	inode  int
	err    error // the first one; nothing is written after it
}

// File type bits of a mode (cpio's are stat's).
const (
	cpioDir     = 0o040000
	cpioRegular = 0o100000
	cpioLink    = 0o120000
	cpioChar    = 0o020000
)

func (c *cpioWriter) dir(name string) { c.member(name, cpioDir|0o755, 0, 0, nil) }

func (c *cpioWriter) file(name string, perm fs.FileMode, content []byte) {
	c.member(name, cpioRegular|uint32(perm.Perm()), 0, 0, content)
}

func (c *cpioWriter) symlink(name, target string) {
	c.member(name, cpioLink|0o777, 0, 0, []byte(target))
}

func (c *cpioWriter) charDevice(name string, perm fs.FileMode, major, minor int) {
	c.member(name, cpioChar|uint32(perm.Perm()), major, minor, nil)
}

// close writes the trailer and pads to 512 bytes, so that another archive can
// follow. It returns the first error of all calls.
func (c *cpioWriter) close() error {
	c.inode = -1
	c.member("TRAILER!!!", 0, 0, 0, nil)
	c.pad(512)
	return c.err
}

func (c *cpioWriter) member(name string, mode uint32, major, minor int, content []byte) {
	c.inode++
	c.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0, name))
	c.pad(4)
	c.write(content)
	c.pad(4)
}

func (c *cpioWriter) pad(to int64) {
	if n := c.offset % to; n != 0 {
		c.write(make([]byte, to-n))
	}
}

func (c *cpioWriter) write(b []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(b)
	c.offset += int64(n)
	c.err = err
}
