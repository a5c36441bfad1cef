package tidy

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Tree is what the rules look at.
type Tree struct {
	Files []File
}

// File is one file of the tree. Go files carry their imports and calls.
type File struct {
	Path    string   // relative to the top, with slashes
	Package string   // package name; empty when it is no Go file
	Doc     bool     // has a package comment
	Imports []Ref    // import paths
	Calls   []Ref    // qualified calls such as kgo.NewClient
	Places  []Ref    // texts that name a machine or a download host
	_       struct{} // named fields only
}

// Ref is a text at a line.
type Ref struct {
	Text string
	Line int
}

// Test reports whether the file is compiled for tests alone.
func (f File) Test() bool { return strings.HasSuffix(f.Path, "_test.go") }

// Dir is the folder of the file.
func (f File) Dir() string { return path.Dir(f.Path) }

// Finding is one broken rule: where, what, why, and what to do instead.
type Finding struct {
	Path string
	Line int
	Rule string
	What string
	Do   string
}

// String is the finding as a person reads it.
func (f Finding) String() string {
	where := f.Path
	if f.Line > 0 {
		where = fmt.Sprintf("%s:%d", f.Path, f.Line)
	}
	return fmt.Sprintf("%s: %s\n\trule: %s\n\tinstead: %s", where, f.What, f.Rule, f.Do)
}

// Check applies all rules. Findings are ordered by path and line.
func Check(t Tree) []Finding {
	var found []Finding
	for _, f := range t.Files {
		if top, _, _ := strings.Cut(f.Path, "/"); !strings.HasPrefix(top, ".") && !slices.Contains(topLevel, top) {
			found = append(found, Finding{Path: f.Path, Rule: "the top level is the index of the tree",
				What: fmt.Sprintf("%q is not one of its names", top), Do: "move it to the folder it belongs to, or add the name to topLevel in internal/tidy/map.go"})
		}
		for _, p := range f.Places {
			found = append(found, Finding{Path: f.Path, Line: p.Line, Rule: "the tree names no machine's folders and no download hosts",
				What: fmt.Sprintf("mentions %q", p.Text), Do: "use a relative path, a cache directory of the user, or the package manager's own client"})
		}
		if f.Package == "" {
			continue
		}
		for _, imp := range f.Imports {
			if broken, ok := checkImport(f, imp.Text); ok {
				broken.Path, broken.Line = f.Path, imp.Line
				found = append(found, broken)
			}
		}
		found = append(found, checkCalls(f)...)
	}
	found = append(found, checkDocs(t)...)
	slices.SortFunc(found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line), cmp.Compare(a.What, b.What))
	})
	return found
}

// checkImport says whether file f may import path imp.
func checkImport(f File, imp string) (Finding, bool) {
	if imp == Module || strings.HasPrefix(imp, Module+"/") {
		return checkOwn(f, strings.TrimPrefix(strings.TrimPrefix(imp, Module), "/"))
	}
	return checkForeign(f, imp)
}

// checkOwn holds the arrows between packages of ours. Tests obey them too: a
// domain whose test needs a driver is not a domain.
func checkOwn(f File, to string) (Finding, bool) {
	from := f.Dir()
	lf, lt := layerOf(from), layerOf(to)
	refuse := func(rule string) (Finding, bool) {
		return Finding{Rule: rule, What: fmt.Sprintf("%s (%s) imports %s (%s)", from, lf, to, lt), Do: instead[lf]}, true
	}
	switch {
	case lf == Outside || lt == Outside:
		return Finding{Rule: "every package has a layer", What: fmt.Sprintf("%s (%s) imports %s (%s)", from, lf, to, lt),
			Do: "place the package in internal/tidy/map.go"}, true
	case lf == lt && (within(to, from) || within(from, to)), lf == Driver && lt == Driver && driverOf(from) == driverOf(to):
		return Finding{}, false
	case lt == Daemon && lf != Daemon && lf != Command && lf != Integration:
		return refuse("internal/daemon is imported by cmd and integration only")
	case lf == Driver && lt == Driver:
		return refuse("drivers never import each other")
	case lf == Command && (lt == Driver || lt == Client):
		return refuse("CLI verbs know no driver")
	case f.Test() && lt == Suite && lf == Driver:
		return Finding{}, false
	case from == "restore" && to == "backup":
		return Finding{}, false
	case !slices.Contains(allowed[lf], lt):
		return refuse("imports point one way: cmd -> internal/daemon -> drivers -> domains -> consensus -> internal/topology")
	}
	return Finding{}, false
}

// checkForeign holds the libraries to their places.
func checkForeign(f File, imp string) (Finding, bool) {
	from, layer := f.Dir(), layerOf(f.Dir())
	if f.Test() || layer == Integration {
		return Finding{}, false
	}
	if layer != Suite && slices.ContainsFunc(testOnly, func(p string) bool { return within(imp, p) }) {
		return Finding{Rule: "test libraries never reach the product", What: fmt.Sprintf("%s imports %s", from, imp),
			Do: "move the code into a _test.go file, a DOMAINtest suite or integration/"}, true
	}
	for _, l := range libraries {
		if !strings.HasPrefix(imp, l.prefix) {
			continue
		}
		home := slices.ContainsFunc(l.homes, func(h string) bool { return within(from, h) })
		types := layer == Driver && slices.Contains(l.types, path.Base(driverOf(from)))
		if !home && !types {
			return Finding{Rule: "a library has one home", What: fmt.Sprintf("%s (%s) imports %s", from, layer, imp),
				Do: fmt.Sprintf("only %s may (internal/tidy/map.go); use its types or take an interface", strings.Join(l.homes, ", "))}, true
		}
		return Finding{}, false
	}
	if from != "internal/topology" && layer != Consensus && layer != Domain {
		return Finding{}, false
	}
	if slices.Contains(effects, imp) {
		return Finding{Rule: "a domain decides and reaches for nothing", What: fmt.Sprintf("%s (%s) imports %s", from, layer, imp), Do: instead[Domain]}, true
	}
	if first, _, _ := strings.Cut(imp, "/"); strings.Contains(first, ".") && !slices.ContainsFunc(pure, func(p string) bool { return within(imp, p) }) {
		return Finding{Rule: "a domain imports the standard library, pure leaves and small pure libraries",
			What: fmt.Sprintf("%s (%s) imports %s", from, layer, imp), Do: instead[Domain] + "; a library without I/O may be added to pure in internal/tidy/map.go"}, true
	}
	return Finding{}, false
}

// checkCalls finds connections that are opened outside the client leaves.
// A driver may hold a library's types, and must be given the connection.
func checkCalls(f File) []Finding {
	if f.Test() || layerOf(f.Dir()) == Integration {
		return nil
	}
	var found []Finding
	for _, c := range f.Calls {
		for _, l := range libraries {
			if !slices.Contains(l.dial, c.Text) || !slices.ContainsFunc(f.Imports, func(i Ref) bool { return strings.HasPrefix(i.Text, l.prefix) }) {
				continue
			}
			if !slices.ContainsFunc(l.homes, func(h string) bool { return within(f.Dir(), h) }) {
				found = append(found, Finding{Path: f.Path, Line: c.Line, Rule: "connections are opened in one place per store",
					What: fmt.Sprintf("%s calls %s", f.Dir(), c.Text), Do: "take the connection as an argument; " + l.homes[0] + " opens it with the fleet's TLS and credentials"})
			}
		}
	}
	return found
}

// checkDocs asks each package for its doc.go.
func checkDocs(t Tree) []Finding {
	documented := map[string]bool{} // by folder; false: seen without one
	for _, f := range t.Files {
		if f.Package == "" {
			continue
		}
		documented[f.Dir()] = documented[f.Dir()] || (path.Base(f.Path) == "doc.go" && f.Doc)
	}
	var found []Finding
	for dir, ok := range documented {
		if !ok && dir != "." {
			found = append(found, Finding{Path: dir, Rule: "every package starts with doc.go", What: "has no doc.go with a package comment",
				Do: "write its words, its promise and its file map there"})
		}
	}
	return found
}
