// Package tidy keeps the shape of the tree: rules that do not run, rot.
//
// The promise: an import that goes against the arrows
//
//	cmd -> internal/daemon -> drivers -> domains -> consensus -> internal/topology
//
// turns its test red and says which import, which rule, and what to do
// instead. So does a client library outside its one package, a connection
// that is opened elsewhere, a package without doc.go, a stray file at the top
// level, and a text that names a place on somebody's machine.
//
// Files:
//
//	map.go      which package belongs to which layer, and what each may import
//	rules.go    the rules, pure: from a Tree to findings
//	load.go     reads a Tree from the working copy, build-tagged files included
//	testrun/    runs one kind of test for `make test` and sums up what ran
package tidy
