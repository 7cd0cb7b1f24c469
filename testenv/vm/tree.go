package vm

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// tree collects files of the host for the guest, by the path that they have
// on both, with the symbolic links on the way and the libraries that programs
// need.
type tree struct {
	files map[string]string // regular files: path in the guest -> path on the host
	links map[string]string // symbolic links: path -> target
	dirs  map[string]bool
}

func newTree() *tree {
	return &tree{files: map[string]string{}, links: map[string]string{}, dirs: map[string]bool{}}
}

// libraryDirs is where the dynamic linker looks, as Debian sets it up.
var libraryDirs = []string{"/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib", "/usr/lib", "/usr/local/lib"}

// program adds the program that the host's PATH finds under name.
func (t *tree) program(name string) error {
	for _, dir := range filepath.SplitList(searchPath()) {
		p := filepath.Join(dir, name)
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return t.add(p)
		}
	}
	return fmt.Errorf("vm: the guest needs the program %s, which is not installed here; run scripts/need.sh vm", name)
}

// glob adds every file that matches, which may be none.
func (t *tree) glob(pattern string) error {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	for _, n := range names {
		if info, err := os.Stat(n); err != nil || !info.Mode().IsRegular() {
			continue
		}
		if err := t.add(n); err != nil {
			return err
		}
	}
	return nil
}

// add adds the file name, and what it points to or is linked with.
func (t *tree) add(name string) error {
	// Only the last step may be a link in the guest: its directories are real.
	dir, err := filepath.EvalSymlinks(filepath.Dir(name))
	if err != nil {
		return fmt.Errorf("vm: %w", err)
	}
	name = filepath.Join(dir, filepath.Base(name))
	if t.files[name] != "" || t.links[name] != "" {
		return nil
	}
	info, err := os.Lstat(name)
	if err != nil {
		return fmt.Errorf("vm: %w", err)
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(name)
		if err != nil {
			return fmt.Errorf("vm: %w", err)
		}
		t.link(name, target)
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		return t.add(target)
	case info.Mode().IsRegular():
		t.put(name, name)
		return t.libraries(name)
	default:
		return fmt.Errorf("vm: %s is neither a file nor a link: %v", name, info.Mode())
	}
}

// put adds the host's file under another name, as it is.
func (t *tree) put(name, hostPath string) {
	t.files[name] = hostPath
	t.parents(name)
}

// link adds a symbolic link, unless something has that name.
func (t *tree) link(name, target string) {
	if t.files[name] == "" && t.links[name] == "" {
		t.links[name] = target
		t.parents(name)
	}
}

func (t *tree) parents(name string) {
	for d := filepath.Dir(name); d != "/" && d != "."; d = filepath.Dir(d) {
		t.dirs[d] = true
	}
}

// libraries adds what the dynamic linker would load for the file.
func (t *tree) libraries(name string) error {
	f, err := elf.Open(name)
	var notELF *elf.FormatError
	if errors.As(err, &notELF) {
		return nil // a script or data
	}
	if err != nil {
		if info, statErr := os.Stat(name); statErr == nil && info.Size() < 64 {
			return nil // too short for an ELF header
		}
		return fmt.Errorf("vm: %s: %w", name, err)
	}
	defer func() { _ = f.Close() }()
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("vm: %s is for %v; the guest is an x86-64 machine", name, f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			raw := make([]byte, p.Filesz)
			if _, err := p.ReadAt(raw, 0); err != nil {
				return fmt.Errorf("vm: %s: %w", name, err)
			}
			if err := t.add(strings.TrimRight(string(raw), "\x00")); err != nil {
				return err
			}
		}
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("vm: %s: %w", name, err)
	}
	dirs := slices.Clone(libraryDirs)
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		paths, err := f.DynString(tag)
		if err != nil {
			continue // no such tag
		}
		for _, list := range paths {
			for _, d := range filepath.SplitList(list) {
				dirs = append(dirs, strings.ReplaceAll(d, "$ORIGIN", filepath.Dir(name)))
			}
		}
	}
	for _, lib := range needed {
		if err := t.library(name, lib, dirs); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) library(user, lib string, dirs []string) error {
	for _, d := range dirs {
		p := filepath.Join(d, lib)
		if _, err := os.Stat(p); err == nil {
			return t.add(p)
		}
	}
	return fmt.Errorf("vm: %s needs the library %s, which is in none of %s", user, lib, strings.Join(dirs, ", "))
}
