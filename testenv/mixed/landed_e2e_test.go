//go:build e2e

package mixed

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// landed builds the last landed version, unless that was done before, and
// returns its commit and the directory with its blockd and blockctl.
func landed(t *testing.T) (commit, bin string) {
	t.Helper()
	archives, err := filepath.Glob("testdata/blockd-*.tar.xz")
	if err != nil || len(archives) != 1 {
		t.Fatalf("%d archives of a landed version in testdata, want 1: %v", len(archives), err)
	}
	text, err := os.ReadFile(archives[0])
	if err != nil {
		t.Fatal(err)
	}
	commit = strings.TrimSuffix(strings.TrimPrefix(filepath.Base(archives[0]), "blockd-"), ".tar.xz")
	sum := sha256.Sum256(text)
	into, err := filepath.Abs(fmt.Sprintf("../../.build/landed/%s-%x", commit, sum[:4]))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(into); errors.Is(err, os.ErrNotExist) {
		err = build(text, into)
		if err != nil {
			t.Fatalf("build the landed version %s: %v", commit, err)
		}
	}
	return commit, filepath.Join(into, "bin")
}

// build unpacks a landed version and builds it. Nothing is in the directory into
// unless all of it was done.
func build(archive []byte, into string) error {
	if err := os.MkdirAll(filepath.Dir(into), 0o755); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(into), "new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	source := filepath.Join(dir, "src")
	if err := os.Mkdir(source, 0o755); err != nil {
		return err
	}
	unpack := exec.Command("tar", "-xJf", "-", "-C", source)
	unpack.Stdin = bytes.NewReader(archive)
	if out, err := unpack.CombinedOutput(); err != nil {
		return fmt.Errorf("tar: %w: %s", err, out)
	}
	// It has a repository around it that is not its own.
	compile := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(dir, "bin")+"/", "./tools/blockd", "./tools/blockctl")
	compile.Dir = source
	compile.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod")
	if out, err := compile.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	return os.Rename(dir, into)
}
