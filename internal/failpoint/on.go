//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// At kills this process, as kill -9 does, if there is a file of this name in
// the folder that HOLDFAST_FAILPOINTS names. The file is removed first, so
// that of all daemons that share the folder exactly one dies.
func At(name string) {
	dir := os.Getenv("HOLDFAST_FAILPOINTS")
	if dir == "" || os.Remove(filepath.Join(dir, name)) != nil {
		return
	}
	fmt.Fprintln(os.Stderr, "failpoint", name)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}
