// Package failpoint lets a test kill a daemon at a named place, between any
// two lines that matter. It exists only in binaries built with the tag
// failpoint; in every other one At does nothing and costs nothing.
package failpoint
