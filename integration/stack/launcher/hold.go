package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// statusFD is where the rig waits for the server's process id.
const statusFD = 3

// orphansMax bounds the wait for what a dead server leaves behind. SIGKILL
// needs no time unless a disk hangs.
const orphansMax = 10 * time.Second

func hold(argv []string) int {
	flags := flag.NewFlagSet("hold", flag.ExitOnError)
	uid := flags.Int("as", 0, "user and group id that PROGRAM runs as")
	reach := flags.Bool("reach", false, "let that user pass folders that it may not open")
	check("read the options", flags.Parse(argv))
	if argv = flags.Args(); len(argv) == 0 {
		usage()
	}

	// A Ctrl-C in the terminal is the rig's business: it stops servers in
	// order. Notify, not Ignore: an ignored signal would be inherited.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		for range signals {
		}
	}()
	// What a killed server leaves behind becomes ours, and ends before we do.
	check("become the heir of orphans", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))

	syscall.CloseOnExec(statusFD)
	status := os.NewFile(statusFD, "status")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// The second belt: should this launcher be killed itself, the kernel kills
	// the server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if *uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(*uid), Gid: uint32(*uid)}
		if *reach {
			cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_DAC_OVERRIDE}
		}
	}
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
	endOrphans()
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

// endOrphans kills and collects every process that the server left. Postgres
// is a family of processes: when the first is killed, the others would hold
// its shared memory for a while, and one that is stopped would hold it for ever.
func endOrphans() {
	for deadline := time.Now().Add(orphansMax); time.Now().Before(deadline); {
		for _, pid := range children() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.ECHILD):
			return
		case pid == 0:
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// children lists the processes whose parent we are.
func children() []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	var pids []int
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // ended meanwhile
		}
		// The name in brackets may hold anything, so look behind its end.
		fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
