package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// aptPackage names the Debian and Ubuntu package of each program that we call
// and can install.
var aptPackage = map[string]string{
	"npm":  "npm",
	"mvn":  "maven",
	"java": "default-jre-headless",
}

// MissingError says that a program is not installed, and what would install it.
type MissingError struct {
	Program string
	Command string // the exact command for Debian and Ubuntu
	Err     error  // why installing it did not work; nil when it was not tried
}

func (e *MissingError) Error() string {
	s := fmt.Sprintf("%s is missing; on Debian or Ubuntu: %s", e.Program, e.Command)
	if e.Err != nil {
		s += fmt.Sprintf(" (tried: %v)", e.Err)
	}
	return s
}

func (e *MissingError) Unwrap() error { return e.Err }

func missing(program string) *MissingError {
	if aptPackage[program] == "" { // the distributions' Go is too old for us
		return &MissingError{Program: program, Command: "(no package) install the Go version that go.mod names"}
	}
	return &MissingError{Program: program,
		Command: "apt-get update && apt-get install -y --no-install-recommends " + aptPackage[program]}
}

// need finds a program. When it is missing it is installed, if we are root on
// Debian or Ubuntu; otherwise the error is a MissingError.
func need(ctx context.Context, progress io.Writer, program string) (string, error) {
	if found, err := exec.LookPath(program); err == nil {
		return found, nil
	}
	miss := missing(program)
	if os.Geteuid() != 0 || aptPackage[program] == "" || !aptSystem() {
		return "", miss
	}
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make the cache directory: %w", err)
	}
	unlock, err := lockFile(ctx, progress, cache+"/apt.lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if found, err := exec.LookPath(program); err == nil {
		return found, nil
	}
	say(progress, "%s is missing, installing it: %s", program, miss.Command)
	update := runTool(ctx, "/", "apt-get", "-qq", "update")
	install := runTool(ctx, "/", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq",
		"-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends", aptPackage[program])
	if install != nil {
		miss.Err = errors.Join(update, install)
		return "", miss
	}
	found, err := exec.LookPath(program)
	if err != nil {
		miss.Err = err
		return "", miss
	}
	return found, nil
}

func aptSystem() bool {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return false
	}
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(release)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		if key != "ID" && key != "ID_LIKE" {
			continue
		}
		for id := range strings.FieldsSeq(strings.Trim(value, `"'`)) {
			if id == "debian" || id == "ubuntu" {
				return true
			}
		}
	}
	return false
}
