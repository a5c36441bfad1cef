//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"syscall"
)

// At kills this process, as kill -9 does, if HOLDFAST_FAILPOINT names the place.
func At(name string) {
	if os.Getenv("HOLDFAST_FAILPOINT") != name {
		return
	}
	fmt.Fprintln(os.Stderr, "failpoint", name)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way
}
