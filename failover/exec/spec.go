package exec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

const (
	timeoutDefault = time.Minute
	hooksMax       = 16
	pathOfHooks    = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// Hook is one command of a step.
type Hook struct {
	Argv    []string      `json:"argv"`
	Timeout Duration      `json:"timeout,omitempty"` // default 1 min
	Role    topology.Role `json:"role"`
}

// Duration is a time.Duration that is written as "30s".
type Duration time.Duration

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%w (want a duration such as \"30s\")", err)
	}
	if v <= 0 {
		return fmt.Errorf("duration %s must be above 0", v)
	}
	*d = Duration(v)
	return nil
}

// ParseSpec reads the spec of a step: one hook, or a list of them.
func ParseSpec(b []byte) ([]Hook, error) {
	var hooks []Hook
	var into any = &hooks
	if trimmed := bytes.TrimSpace(b); len(trimmed) > 0 && trimmed[0] == '{' {
		hooks = make([]Hook, 1)
		into = &hooks[0]
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return nil, fmt.Errorf("read hooks of the step: %w", err)
	}
	if d.More() {
		return nil, errors.New("read hooks of the step: more than one value")
	}
	if len(hooks) == 0 || len(hooks) > hooksMax {
		return nil, fmt.Errorf("read hooks of the step: %d of them, want 1 to %d", len(hooks), hooksMax)
	}
	for i, h := range hooks {
		if len(h.Argv) == 0 || h.Argv[0] == "" {
			return nil, fmt.Errorf("read hook %d of the step: it has no argv", i+1)
		}
		if err := topology.CheckName("role", string(h.Role)); err != nil {
			return nil, fmt.Errorf("read hook %d of the step: %w", i+1, err)
		}
		if h.Timeout == 0 {
			hooks[i].Timeout = Duration(timeoutDefault)
		}
	}
	return hooks, nil
}

// find returns the file of a command, or says what to do about it.
func find(command string) (string, error) {
	if !strings.Contains(command, "/") {
		for _, dir := range filepath.SplitList(pathOfHooks) {
			if p := filepath.Join(dir, command); runnable(p) == nil {
				return p, nil
			}
		}
		return "", fmt.Errorf("hook %s is in none of %s on this node: install it there, or name it with its whole path", command, pathOfHooks)
	}
	if !filepath.IsAbs(command) {
		return "", fmt.Errorf("hook %s has a relative path: name it with its whole path, starting with /", command)
	}
	return command, runnable(command)
}

func runnable(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("hook %s does not exist on this node: install it here, or correct its path in the fleet file", path)
	case err != nil:
		return fmt.Errorf("look at hook %s: %w (may the daemon's user read its folder?)", path, err)
	case info.IsDir():
		return fmt.Errorf("hook %s is a folder: name the command in it", path)
	case info.Mode()&0o111 == 0:
		return fmt.Errorf("hook %s is not executable: run `chmod 755 %s`", path, path)
	}
	return nil
}
