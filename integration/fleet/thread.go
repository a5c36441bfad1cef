package fleet

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

var (
	threadOnce sync.Once
	starts     = make(chan func())
)

// StartTied starts a command in a process group of its own that the kernel
// ends when this process does, whatever happens to it. The kernel ties a child
// to the thread that started it, so all are started by one that never ends.
func StartTied(cmd *exec.Cmd) error {
	threadOnce.Do(func() { go thread() })
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	result := make(chan error)
	starts <- func() { result <- cmd.Start() }
	return <-result
}

func thread() {
	runtime.LockOSThread()
	for start := range starts {
		start()
	}
}
