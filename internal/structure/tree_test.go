// Package structure holds the tests that keep the tree's shape: which package
// may import which and why not, that everything exported is documented, and
// that nothing is left half done. It has no code of its own.
package structure

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// module is the path of the module in go.mod.
const module = "blockd.dev"

// sourceFile is one parsed Go file of the tree.
type sourceFile struct {
	path string // from the root, with slashes: blockdev/disk/disk.go
	dir  string // its package's folder: blockdev/disk
	text []byte
	ast  *ast.File
	fset *token.FileSet
}

// isTest tells whether the file belongs to tests only.
func (f *sourceFile) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

// at says where pos is, as file:line.
func (f *sourceFile) at(pos token.Pos) string {
	return f.path + ":" + strconv.Itoa(f.fset.Position(pos).Line)
}

// imports lists what the file imports, as import paths.
func (f *sourceFile) imports() []string {
	var paths []string
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err == nil {
			paths = append(paths, p)
		}
	}
	return paths
}

// readTree parses every Go file of the module, whatever its build tags,
// leaving out testdata and modules nested in it.
func readTree(t *testing.T) []*sourceFile {
	t.Helper()
	root := filepath.Join("..", "..")
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatalf("the root of the module is not where it was: %v", err)
	}
	var files []*sourceFile
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel == "." {
				return nil
			}
			base := d.Name()
			_, modErr := os.Stat(filepath.Join(name, "go.mod"))
			if base == "testdata" || base == "data" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_") || modErr == nil {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(rel) != ".go" {
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(fset, rel, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		files = append(files, &sourceFile{path: rel, dir: path.Dir(rel), text: text, ast: parsed, fset: fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 10 {
		t.Fatalf("only %d Go files found: the walk is broken", len(files))
	}
	return files
}

// within tells whether the package folder dir is root or below it.
func within(dir, root string) bool {
	return dir == root || strings.HasPrefix(dir, root+"/")
}
