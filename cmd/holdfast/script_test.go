package main

import (
	"errors"
	"os/exec"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"holdfast": main})
}

// cleaner lets a fake daemon end with the script that uses it.
type cleaner struct {
	env *testscript.Env
}

func (c cleaner) Cleanup(f func())  { c.env.Defer(f) }
func (c cleaner) Fatal(args ...any) { c.env.T().Fatal(args...) }

// Each script is a story of one or two verbs: what is typed, what is printed
// where, and the exit code.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			for name, make := range fleets {
				make().serve(cleaner{env}, env.WorkDir, name)
			}
			env.Setenv("HOLDFAST_CONFIG", env.WorkDir+"/none.yaml")
			env.Setenv("HOLDFAST_SOCKET", env.WorkDir+"/calm.sock")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"code": exitsWith},
	})
}

// exitsWith runs a command and compares its exit code: code 3 holdfast …
func exitsWith(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND...")
	}
	got := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		got = codeOf(err)
	}
	if got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

func codeOf(err error) string {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return strconv.Itoa(e.ExitCode())
	}
	return err.Error()
}
