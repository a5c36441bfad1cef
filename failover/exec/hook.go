package exec

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/internal/agent"
	"github.com/holdfast-dr/holdfast/internal/process"
)

const (
	markName   = "HOLDFAST_HOOK"
	pipeWait   = time.Second // for the last output, when a child of the hook keeps the pipe open
	errorLines = 1 << 10     // bytes of output in an error
)

// run runs one hook to its end. When it returns an error, nothing of the hook
// is left running, unless the error says so.
func (d *Driver) run(ctx context.Context, h Hook, t agent.Task, f agent.Fence, name string) (Result, error) {
	path, err := find(h.Argv[0])
	if err != nil {
		return Result{}, err
	}
	epoch, known := f.Epochs[h.Role]
	if !known {
		return Result{}, fmt.Errorf("hook %s is for role %s, which plan %s does not move", path, h.Role, t.Ref.Plan)
	}
	out, err := newOutput(filepath.Join(d.cfg.Dir, name+".log"))
	if err != nil {
		return Result{}, err
	}
	mark := process.NewMark(markName)
	cmd := &exec.Cmd{Path: path, Args: h.Argv, Dir: "/", Stdout: out, Stderr: out, WaitDelay: pipeWait,
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
		Env: []string{
			"PATH=" + pathOfHooks, "HOME=" + home(), "LANG=C.UTF-8",
			"HOLDFAST_ROLE=" + string(h.Role), "HOLDFAST_REGION=" + string(d.cfg.Region),
			"HOLDFAST_EPOCH=" + strconv.FormatUint(uint64(epoch), 10),
			"HOLDFAST_GENERATION=" + strconv.FormatUint(uint64(f.Generation), 10),
			"HOLDFAST_PLAN=" + string(t.Ref.Plan), "HOLDFAST_STEP=" + strconv.Itoa(t.Ref.Step+1),
			"HOLDFAST_UNDO=" + strconv.Itoa(t.Ref.Undo), "HOLDFAST_ATTEMPT=" + strconv.Itoa(t.Attempt), mark,
		}}
	start := time.Now()
	code, err := d.supervise(ctx, h, t, f, cmd, mark)
	took := time.Since(start).Round(time.Millisecond)
	if logErr := out.Close(); logErr != nil {
		d.cfg.Log.Warn("the output of a hook is incomplete", "log", out.path, "error", logErr)
	}
	if err != nil {
		said := strings.TrimSpace(out.last(errorLines))
		if said == "" {
			said = "(nothing)"
		}
		return Result{}, fmt.Errorf("hook %s: %w; after %s; its output is in %s and ends with: %s", path, err, took, out.path, said)
	}
	return Result{Role: h.Role, Path: path, ExitCode: code, Took: Duration(took), Attempt: t.Attempt, Output: out.last(evidenceTail), Log: out.path}, nil
}

// supervise starts cmd, having written down by which mark it is found again,
// and ends it in time.
func (d *Driver) supervise(ctx context.Context, h Hook, t agent.Task, f agent.Fence, cmd *exec.Cmd, mark string) (int, error) {
	pidFile := d.pidPath(h.Role, t.Kind)
	rec := running{Family: process.Family{Mark: mark}, Boot: d.cfg.Boot, Task: t.ID, Attempt: t.Attempt}
	if err := d.write(pidFile, rec); err != nil { // before there is anything to find
		return 0, err
	}
	if err := f.Check(); err != nil {
		return 0, errors.Join(err, d.forget(pidFile))
	}
	if err := cmd.Start(); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: the interpreter in its first line does not exist", err)
		} else if errors.Is(err, syscall.ENOEXEC) {
			err = fmt.Errorf("%w: it is no program for this machine and has no first line such as #!/bin/sh", err)
		}
		return 0, errors.Join(fmt.Errorf("start: %w", err), d.forget(pidFile))
	}
	led, err := rec.Lead(cmd.Process.Pid)
	if err == nil {
		rec.Family = led
		err = d.write(pidFile, rec)
	}
	if err != nil { // the mark alone finds it
		d.cfg.Log.Warn("the process of a hook is not written down", "error", err)
	}
	end := make(chan error, 1)
	go func() { end <- cmd.Wait() }()
	timeout := time.NewTimer(time.Duration(h.Timeout))
	defer timeout.Stop()
	var why error
	select {
	case err = <-end:
	case <-timeout.C:
		why = fmt.Errorf("timeout of %s passed", time.Duration(h.Timeout))
	case <-ctx.Done():
		why = context.Cause(ctx)
	}
	if why == nil && (err == nil || errors.Is(err, exec.ErrWaitDelay)) { // a child that outlives it holds the pipe: it is left alone
		return 0, d.forget(pidFile)
	}
	_, left := rec.End(d.cfg.Grace)
	if why != nil {
		err = why
		if left == nil {
			<-end //nolint:errcheck // it was ended; within pipeWait, since nothing of it lives
		}
	}
	if left != nil { // the pid file stays: nothing else of the role may run
		return 0, errors.Join(err, left)
	}
	return cmd.ProcessState.ExitCode(), errors.Join(err, d.forget(pidFile))
}

func home() string {
	if h := os.Getenv("HOME"); h != "" {
		return h
	}
	return "/"
}
