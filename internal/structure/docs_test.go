package structure

import (
	"go/ast"
	"go/token"
	"strings"
	"testing"
)

// TestOnePackageComment checks that every package says once what it is. Its
// place is doc.go, or the main file when it is short.
func TestOnePackageComment(t *testing.T) {
	type pkg struct {
		byHand   int      // files that no tool generated
		comments []string // the files that have one
	}
	code, tests := map[string]*pkg{}, map[string]*pkg{}
	for _, f := range readTree(t) {
		kind := code
		if f.isTest() {
			kind = tests
		}
		p := kind[f.dir]
		if p == nil {
			p = &pkg{}
			kind[f.dir] = p
		}
		if ast.IsGenerated(f.ast) {
			continue
		}
		p.byHand++
		if f.ast.Doc != nil {
			p.comments = append(p.comments, f.path)
		}
	}
	for dir, p := range tests {
		if code[dir] == nil {
			code[dir] = p
		} else if len(p.comments) > 0 {
			t.Errorf("package comment in a test file: %s; put a blank line before the package clause", strings.Join(p.comments, ", "))
		}
	}
	for dir, p := range code {
		if p.byHand == 0 {
			continue // the generator's input has the words
		}
		switch len(p.comments) {
		case 1:
		case 0:
			t.Errorf("%s has no package comment: say what it owns, what it does not do, which goroutines exist, which specification it follows", dir)
		default:
			t.Errorf("%s has %d package comments, keep one: %s", dir, len(p.comments), strings.Join(p.comments, ", "))
		}
	}
}

// TestExportedNamesAreDocumented checks that each exported name outside of
// tests has a doc comment. Names of one const or var group may share the
// group's comment.
func TestExportedNamesAreDocumented(t *testing.T) {
	for _, f := range readTree(t) {
		if f.isTest() || ast.IsGenerated(f.ast) {
			continue
		}
		for _, u := range undocumented(f.ast) {
			t.Errorf("%s: %s has no doc comment: say what it is, its unit and range, its errors, who owns its buffers, the section of the specification", f.at(u.Pos()), u.Name)
		}
	}
}

// undocumented returns the exported names of file that no comment describes.
func undocumented(file *ast.File) []*ast.Ident {
	var found []*ast.Ident
	need := func(name *ast.Ident, docs ...*ast.CommentGroup) {
		if !name.IsExported() {
			return
		}
		for _, d := range docs {
			if d != nil && strings.TrimSpace(d.Text()) != "" {
				return
			}
		}
		found = append(found, name)
	}
	for _, decl := range file.Decls {
		switch d := decl.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil || receiverIsExported(d.Recv) {
				need(d.Name, d.Doc)
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch s := spec.(type) {
				case *ast.TypeSpec:
					group := d.Doc
					if d.Lparen != token.NoPos {
						group = nil // a type in a group needs its own
					}
					need(s.Name, s.Doc, s.Comment, group)
					if i, ok := s.Type.(*ast.InterfaceType); ok && s.Name.IsExported() {
						for _, m := range i.Methods.List {
							for _, n := range m.Names {
								need(n, m.Doc, m.Comment)
							}
						}
					}
				case *ast.ValueSpec:
					for _, n := range s.Names {
						need(n, s.Doc, s.Comment, d.Doc)
					}
				}
			}
		}
	}
	return found
}

func receiverIsExported(recv *ast.FieldList) bool {
	t := recv.List[0].Type
	for {
		switch x := t.(type) {
		case *ast.StarExpr:
			t = x.X
		case *ast.IndexExpr:
			t = x.X
		case *ast.IndexListExpr:
			t = x.X
		case *ast.Ident:
			return x.IsExported()
		default:
			return false
		}
	}
}
