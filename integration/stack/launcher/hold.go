package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// statusFD is where the rig waits for the server's process id.
const statusFD = 3

func hold(argv []string) int {
	// A Ctrl-C in the terminal is the rig's business: it stops servers in
	// order. Notify, not Ignore: an ignored signal would be inherited.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for range signals {
		}
	}()

	syscall.CloseOnExec(statusFD)
	status := os.NewFile(statusFD, "status")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// The second belt: should this launcher be killed itself, the kernel kills
	// the server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	check("start "+argv[0], cmd.Start())
	pid := cmd.Process.Pid

	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}()
	_, err := fmt.Fprintln(status, pid)
	if err != nil { // nobody listens: the rig is gone already
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
	_ = status.Close()

	err = cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, "launcher: wait:", err)
		return 2
	}
	ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return cmd.ProcessState.ExitCode()
}
