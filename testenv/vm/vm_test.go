package vm

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestCpioMember compares one member with the format's description, byte for
// byte.
func TestCpioMember(t *testing.T) {
	var b bytes.Buffer
	c := &cpioWriter{w: &b}
	c.file("a/b", 0o755, []byte("hello"))
	want := "070701" + "00000001" + "000081ED" + "00000000" + "00000000" + "00000001" + "00000000" + "00000005" +
		"00000000" + "00000000" + "00000000" + "00000000" + "00000004" + "00000000" + "a/b\x00" + "\x00\x00" + "hello" + "\x00\x00\x00"
	if b.String() != want {
		t.Errorf("member is\n%q, want\n%q", b.String(), want)
	}
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	if b.Len()%512 != 0 || !bytes.Contains(b.Bytes(), []byte("TRAILER!!!\x00")) {
		t.Errorf("an archive of %d bytes, want whole blocks of 512 with a trailer", b.Len())
	}
}

// readCpio is the second implementation: it lists an archive's members.
func readCpio(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	members := map[string]string{}
	field := func(at, i int) int {
		t.Helper()
		n, err := strconv.ParseUint(string(archive[at+6+8*i:at+14+8*i]), 16, 32)
		if err != nil {
			t.Fatalf("at %d: %v", at, err)
		}
		return int(n)
	}
	round := func(n int) int { return (n + 3) &^ 3 }
	for at := 0; ; {
		if string(archive[at:at+6]) != "070701" {
			t.Fatalf("no header at %d", at)
		}
		nameLen, size := field(at, 11), field(at, 6)
		name := string(archive[at+110 : at+110+nameLen-1])
		start := round(at + 110 + nameLen)
		if name == "TRAILER!!!" {
			return members
		}
		members[name] = string(archive[start : start+size])
		at = round(start + size)
	}
}

func TestCpioReadsBack(t *testing.T) {
	var b bytes.Buffer
	c := &cpioWriter{w: &b}
	want := map[string]string{}
	for i := range 9 { // every padding of names and contents
		name, content := strings.Repeat("n", i+1), strings.Repeat("x", i)
		c.file(name, 0o644, []byte(content))
		want[name] = content
	}
	c.dir("d")
	c.symlink("d/l", "../n")
	c.charDevice("d/c", 0o600, 5, 1)
	want["d"], want["d/l"], want["d/c"] = "", "../n", ""
	if err := c.close(); err != nil {
		t.Fatal(err)
	}
	got := readCpio(t, b.Bytes())
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("read back %v, want %v", got, want)
	}
}

func TestCpioReportsTheFirstError(t *testing.T) {
	c := &cpioWriter{w: failingWriter{}}
	c.dir("d")
	c.file("f", 0o644, nil)
	if err := c.close(); err != io.ErrShortWrite {
		t.Errorf("close: %v, want the writer's error", err)
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestModulesDep(t *testing.T) {
	needs, byName, err := parseModulesDep([]byte("a/nvme-tcp.ko.xz: b/nvme-core.ko.xz c/x.ko\nc/x.ko:\n"))
	if err != nil {
		t.Fatal(err)
	}
	if byName["nvme_tcp"] != "a/nvme-tcp.ko.xz" || !slices.Equal(needs["a/nvme-tcp.ko.xz"], []string{"b/nvme-core.ko.xz", "c/x.ko"}) {
		t.Errorf("needs %v, names %v", needs, byName)
	}
	if _, _, err := parseModulesDep([]byte("no separator\n")); err == nil {
		t.Error("a line without a colon was accepted")
	}
}

func TestComplaints(t *testing.T) {
	bad := []string{
		"[   12.3] BUG: kernel NULL pointer dereference, address: 0000000000000008",
		"[   12.3] WARNING: CPU: 0 PID: 12 at block/blk-mq.c:1 blk_mq_x+0x1/0x2",
		"[  130.1] INFO: task fio:200 blocked for more than 30 seconds.",
		"[    1.0] Kernel panic - not syncing: Attempted to kill init!",
		"[    9.0] EXT4-fs error (device sda): ext4_lookup:1855: inode #2: comm ls: deleted inode referenced: 12",
		"[    9.0] XFS (sda): Metadata corruption detected at xfs_agf_verify",
		"[    9.0] fio[200]: segfault at 0 ip 0000 sp 0000 error 4 in fio",
	}
	good := []string{
		"[    1.0] Warning: unable to open an initial console.",
		"[    4.3] SCSI subsystem initialized",
		"[   20.1]  connection1:0: detected conn error (1020)",
		"[    9.0] EXT4-fs (sda): mounted filesystem",
	}
	for _, line := range bad {
		if got := complaints([]byte("fine\r\n" + line + "\r\nfine\r\n")); len(got) != 1 || got[0] != line {
			t.Errorf("%q: found %q", line, got)
		}
	}
	for _, line := range good {
		if got := complaints([]byte(line)); len(got) != 0 {
			t.Errorf("%q is a complaint", line)
		}
	}
}

func TestConfigRefusals(t *testing.T) {
	cases := map[string]Config{
		"Script":     {},
		"variable":   {Script: "true", Env: map[string]string{"A B": ""}},
		"Timeout":    {Script: "true", Timeout: -1},
		"MemoryMiB":  {Script: "true", MemoryMiB: 64},
		"Cards":      {Script: "true", Cards: MaxCards + 1},
		"Processors": {Script: "true", Processors: -1},
	}
	for word, c := range cases {
		if _, err := c.withDefaults(); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%+v: %v; want an error about %s", c, err, word)
		}
	}
	if _, err := ParseForward("80"); err == nil {
		t.Error("a forward without a guest port was accepted")
	}
	if f, err := ParseForward("8022:22"); err != nil || f != (Forward{8022, 22}) {
		t.Errorf("8022:22 is %v, %v", f, err)
	}
}

// TestCommandLine: what a Config asks of the machine is on QEMU's command line.
func TestCommandLine(t *testing.T) {
	c, err := Config{Script: "true", Processors: 3, Cards: 2, MemoryMiB: 768, KernelArgs: []string{"a.b=c", "d"}}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	args := strings.Join(qemuArgs(c, kernel{image: "bzImage"}, "initrd"), " ") + " "
	for _, want := range []string{"-smp 3 ", "-m 768M ", " a.b=c d -serial", "net=10.0.2.0/24", "net=10.0.3.0/24", "preempt=none", "pit=off"} {
		if !strings.Contains(args, want) {
			t.Errorf("no %q in %s", want, args)
		}
	}
}

func TestEnvironmentIsQuoted(t *testing.T) {
	got := environment(Config{Cards: 1, Env: map[string]string{"A": `it's "$HOME"`}})
	if want := `export A='it'\''s "$HOME"'` + "\n"; !strings.Contains(got, want) {
		t.Errorf("environment is %q, want in it %q", got, want)
	}
}

// TestControl plays the guest's side of the control channel.
func TestControl(t *testing.T) {
	ours, theirs := net.Pipe()
	var calls [][]string
	g := &guest{exitCode: -1, config: Config{OnCall: func(_ context.Context, words []string) (string, error) {
		calls = append(calls, words)
		if words[0] == "bad" {
			return "", fmt.Errorf("two\nlines")
		}
		return "done", nil
	}}}
	ended := make(chan error, 1)
	go func() { ended <- g.pumpControl(t.Context(), ours) }()
	say := func(line, want string) {
		t.Helper()
		if _, err := io.WriteString(theirs, line); err != nil {
			t.Fatal(err)
		}
		if want == "" {
			return
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(theirs, got); err != nil || string(got) != want {
			t.Errorf("%q was answered by %q (%v), want %q", line, got, err, want)
		}
	}
	say("ready 3.14\n", "")
	say("call resize 100\n", "ok done\n")
	say("call bad\n", "error two lines\n")
	say("exit 7\n", "")
	if err := theirs.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the channel ended with %v", err)
	}
	if g.exitCode != 7 || g.boot == 0 || len(calls) != 2 {
		t.Errorf("exit code %d, boot %v, calls %q", g.exitCode, g.boot, calls)
	}
}

func TestControlRefusesNonsense(t *testing.T) {
	for _, line := range []string{"hello\n", "exit soon\n"} {
		g := &guest{exitCode: -1}
		if err := g.pumpControl(t.Context(), struct {
			io.Reader
			io.Writer
		}{strings.NewReader(line), io.Discard}); err == nil {
			t.Errorf("%q was accepted", line)
		}
	}
}

func TestOutputLines(t *testing.T) {
	var lines []string
	var all bytes.Buffer
	g := &guest{config: Config{Output: &all, OnLine: func(l string) { lines = append(lines, l) }}}
	if err := g.pumpOutput(strings.NewReader("a\r\nb\nlast")); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(lines, []string{"a", "b", "last"}) || all.String() != "a\r\nb\nlast" {
		t.Errorf("lines %q, output %q", lines, all.String())
	}
}

// TestTreeFollowsLinks: a link comes with what it points to, a directory
// link on the way is resolved, a missing program is named.
func TestTreeFollowsLinks(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []error{
		os.MkdirAll(filepath.Join(dir, "usr/bin"), 0o755),
		os.Symlink("usr/bin", filepath.Join(dir, "bin")),
		os.WriteFile(filepath.Join(dir, "usr/bin/tool"), []byte("#!/bin/sh\n"+strings.Repeat("#", 100)), 0o755),
		os.Symlink("tool", filepath.Join(dir, "usr/bin/alias")),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	tr := newTree()
	if err := tr.add(filepath.Join(dir, "bin/alias")); err != nil {
		t.Fatal(err)
	}
	if got := tr.links[filepath.Join(dir, "usr/bin/alias")]; got != "tool" {
		t.Errorf("the link is %q, want tool", got)
	}
	if tr.files[filepath.Join(dir, "usr/bin/tool")] == "" {
		t.Errorf("files are %v, want the link's target", tr.files)
	}
	if !tr.dirs[filepath.Join(dir, "usr")] {
		t.Errorf("directories are %v", tr.dirs)
	}
	if err := tr.program("no-such-program-anywhere"); err == nil || !strings.Contains(err.Error(), "no-such-program-anywhere") {
		t.Errorf("a missing program: %v", err)
	}
	if err := tr.add(filepath.Join(dir, "usr/bin/absent")); err == nil {
		t.Error("a missing file was accepted")
	}
}

func TestConsoleIsBounded(t *testing.T) {
	var c consoleBuffer
	chunk := make([]byte, consoleMax/2+1)
	for range 3 {
		if n, err := c.Write(chunk); n != len(chunk) || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
	}
	if c.Len() != consoleMax {
		t.Errorf("kept %d bytes, want %d", c.Len(), consoleMax)
	}
}

// TestInitrd: what a run has of its own is on top of the image.
func TestInitrd(t *testing.T) {
	dir := t.TempDir()
	image, program, initrd := filepath.Join(dir, "image"), filepath.Join(dir, "tool"), filepath.Join(dir, "initrd")
	for path, content := range map[string]string{image: "", program: "static"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := Config{Script: "true", Programs: []string{program}}
	if err := writeInitrd(initrd, image, c); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(initrd)
	if err != nil {
		t.Fatal(err)
	}
	members := readCpio(t, archive)
	if members["usr/bin/tool"] != "static" || members["vm/script"] != "#!/bin/bash\ntrue" || !strings.Contains(members["vm/env"], "TARGET_HOST") {
		t.Errorf("in the archive: %q", members)
	}
	c.Programs = []string{filepath.Join(dir, "none")}
	if err := writeInitrd(initrd, image, c); err == nil || !strings.Contains(err.Error(), "a program for the guest") {
		t.Errorf("a program that is not there: %v", err)
	}
}
