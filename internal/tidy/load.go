package tidy

import (
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// sizeMax bounds what is searched for places: larger files are data.
const sizeMax = 1 << 20

// Load reads the tree below root: the files that git tracks or would track,
// or, in a copy without git, all files that are not hidden or built. Build
// constraints are not evaluated, so that tagged files are held to the rules.
func Load(ctx context.Context, root string) (Tree, error) {
	names, err := list(ctx, root)
	if err != nil {
		return Tree{}, err
	}
	var t Tree
	for _, name := range names {
		f, ok, err := read(root, name)
		if err != nil {
			return Tree{}, err
		}
		if ok {
			t.Files = append(t.Files, f)
		}
	}
	return t, nil
}

// Root finds the top of the module from the current directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("find go.mod: none in this directory or above it; run inside the module")
		}
		dir = up
	}
}

func list(ctx context.Context, root string) ([]string, error) {
	if out, err := exec.CommandContext(ctx, "git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output(); err == nil {
		names := strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
		slices.Sort(names)
		return slices.Compact(names), nil
	}
	var names []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.IsDir() && rel != "." && (strings.HasPrefix(d.Name(), ".") || rel == "build") {
			return fs.SkipDir
		}
		if d.Type().IsRegular() {
			names = append(names, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list files below %s: %w", root, err)
	}
	return names, nil
}

// read returns false for a file that is gone (deleted, not yet committed) or
// that is not a regular file.
func read(root, name string) (File, bool, error) {
	full := filepath.Join(root, filepath.FromSlash(name))
	st, err := os.Lstat(full)
	if os.IsNotExist(err) || err == nil && !st.Mode().IsRegular() {
		return File{}, false, nil
	}
	if err != nil {
		return File{}, false, err
	}
	f := File{Path: name}
	if st.Size() > sizeMax {
		return f, true, nil
	}
	text, err := os.ReadFile(full)
	if err != nil {
		return File{}, false, err
	}
	if !bytes.Contains(text[:min(len(text), 8000)], []byte{0}) {
		f.Places = findPlaces(text)
	}
	if strings.HasSuffix(name, ".go") && !ignored(name) {
		if err := parse(&f, text); err != nil {
			return File{}, false, err
		}
	}
	return f, true, nil
}

// ignored reports what the go command does not build either.
func ignored(name string) bool {
	return slices.ContainsFunc(strings.Split(name, "/"), func(part string) bool {
		return part == "testdata" || strings.HasPrefix(part, "_") || strings.HasPrefix(part, ".")
	})
}

func findPlaces(text []byte) []Ref {
	var refs []Ref
	line := 0
	for l := range bytes.Lines(text) {
		line++
		for _, p := range places {
			if bytes.Contains(l, []byte(p)) {
				refs = append(refs, Ref{Text: p, Line: line})
			}
		}
	}
	return refs
}

func parse(f *File, text []byte) error {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, f.Path, text, parser.ParseComments)
	if err != nil {
		return fmt.Errorf("parse %s: %w", f.Path, err)
	}
	f.Package, f.Doc = file.Name.Name, file.Doc != nil
	for _, imp := range file.Imports {
		p, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			return fmt.Errorf("parse import %s in %s: %w", imp.Path.Value, f.Path, err)
		}
		f.Imports = append(f.Imports, Ref{Text: p, Line: set.Position(imp.Pos()).Line})
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
			if pkg, ok := sel.X.(*ast.Ident); ok {
				f.Calls = append(f.Calls, Ref{Text: pkg.Name + "." + sel.Sel.Name, Line: set.Position(call.Pos()).Line})
			}
		}
		return true
	})
	return nil
}
