package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestParse_NameMayHoldAnything(t *testing.T) {
	tail := " S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1"
	for _, name := range []string{"sh", "a b", ") R 1 1", "((", "x\ny"} {
		p, err := parse([]byte("42 (" + name + ")" + tail))
		if err != nil || p != (Proc{42, 7, 42, 12345, 'S'}) {
			t.Errorf("%q: %+v, %v", name, p, err)
		}
	}
	for _, bad := range []string{"", "42", "42 (x", "42 (x) S 1", "x (x)" + tail, "42 (x)" + strings.Replace(tail, "12345", "-", 1)} {
		if _, err := parse([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("42 (sh) S 7 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = parse(b) })
}

func sh(t *testing.T, mark, script string) (*exec.Cmd, Family) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Env = append(os.Environ(), mark)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f, err := Family{Mark: mark}.Lead(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = f.End(0); _ = cmd.Wait() })
	return cmd, f
}

func members(t *testing.T, f Family, want int) []Proc {
	t.Helper()
	var got []Proc
	for range 200 {
		var err error
		if got, err = f.Members(); err != nil {
			t.Fatal(err)
		}
		if len(got) == want {
			return got
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%d members, want %d: %+v", len(got), want, got)
	return nil
}

func TestFamily_EndsGroupAndThoseWhoLeftIt(t *testing.T) {
	cmd, f := sh(t, NewMark("T_MARK"), `trap "" TERM; setsid sleep 100 & sleep 100 & env -i sleep 100 & wait; sleep 100`)
	members(t, f, 4)
	go func() { _ = cmd.Wait() }()
	n, err := f.End(50 * time.Millisecond)
	if n != 4 || err != nil {
		t.Errorf("found %d: %v", n, err)
	}
	members(t, f, 0)
}

func TestFamily_ANumberWithoutItsStartTimeIsNobody(t *testing.T) {
	cmd, f := sh(t, NewMark("T_MARK"), `sleep 100`)
	other := Family{Leader: f.Leader, Start: f.Start - 1}
	if got := members(t, other, 0); len(got) != 0 {
		t.Errorf("found %+v", got)
	}
	if n, err := other.End(0); n != 0 || err != nil {
		t.Errorf("ended %d, %v", n, err)
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the process with the number is gone: %v", err)
	}
	if got, _ := (Family{}).Members(); len(got) != 0 {
		t.Errorf("the empty family has %+v", got)
	}
}

func TestFamily_MarkFindsOrphansOfADeadLeader(t *testing.T) {
	cmd, f := sh(t, NewMark("T_MARK"), `sleep 100 & exit 0`)
	if err := WaitEnd(cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	if p, err := Read(cmd.Process.Pid); err != nil || !p.Dead() {
		t.Errorf("after WaitEnd: %+v, %v", p, err)
	}
	_ = cmd.Wait()
	if _, err := Read(cmd.Process.Pid); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Wait: %v", err)
	}
	members(t, f, 1)
	if n, err := f.End(time.Second); n != 1 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}

func TestSignal_SparesWhoTookOverTheNumber(t *testing.T) {
	cmd, f := sh(t, "X=Y", `sleep 100`)
	if err := signal(Proc{PID: f.Leader, Start: f.Start + 1}, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	if p, err := Read(cmd.Process.Pid); err != nil || p.Dead() {
		t.Error("it was killed")
	}
	if err := signal(Proc{PID: 1 << 22}, unix.SIGKILL); err != nil {
		t.Errorf("nobody there: %v", err)
	}
}

func ExampleNewMark() {
	fmt.Println(strings.HasPrefix(NewMark("HOLDFAST_HOOK"), "HOLDFAST_HOOK="))
	// Output: true
}
