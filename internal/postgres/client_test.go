package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

const secret = "correct-horse-7"

func open(t *testing.T, dsn string, dial func(context.Context, string, string) (net.Conn, error)) *Client {
	t.Helper()
	c, err := Open(Config{Name: "us-east", DSN: func() (string, error) { return dsn, nil }, Dial: dial})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// hides fails when an error, printed in whatever way, or anything that it
// wraps, holds the password.
func hides(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		for _, form := range []string{"%v", "%+v", "%#v"} {
			if text := fmt.Sprintf(form, e); strings.Contains(text, secret) {
				t.Errorf("%s tells the password: %s", form, text)
			}
		}
	}
}

func TestOpen_WantsADSN(t *testing.T) {
	if _, err := Open(Config{Name: "us-east"}); err == nil || !strings.Contains(err.Error(), "postgres us-east: no dsn") {
		t.Errorf("%v", err)
	}
}

func TestConnect_NeverTellsThePassword(t *testing.T) {
	cut := func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("the line is cut")
	}
	refuse := func(context.Context, string, string) (net.Conn, error) { return refusing(), nil }
	for name, c := range map[string]struct {
		dsn  string
		dial func(context.Context, string, string) (net.Conn, error)
		want string
	}{
		"bad url":      {"postgres://u:" + secret + "@h:port/db", cut, "the dsn cannot be read"},
		"bad escape":   {"postgres://u:" + secret + "%zz@h/db", cut, "the dsn cannot be read"},
		"bad words":    {"host=h password=" + secret + " sslmode=wrong", cut, "the dsn cannot be read"},
		"no equals":    {"host=h password " + secret, cut, "the dsn cannot be read"},
		"missing file": {"host=h password=" + secret + " sslmode=verify-full sslrootcert=/nowhere/ca.pem", cut, "/nowhere/ca.pem"},
		"line cut":     {"host=h user=u password=" + secret + " sslmode=disable", cut, "reach postgres us-east at h:5432"},
		"refused":      {"host=h user=u password=" + secret + " sslmode=disable", refuse, "as u: FATAL: go away"},
	} {
		t.Run(name, func(t *testing.T) {
			cl := open(t, c.dsn, c.dial)
			_, err := cl.Connect(t.Context(), "")
			hides(t, err)
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			_, err = cl.Replication(t.Context())
			hides(t, err)
		})
	}
}

func TestConnect_HidesThePasswordInWhatADialerSays(t *testing.T) {
	c := open(t, "host=h user=u password="+secret+" sslmode=disable", func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("cannot route " + secret)
	})
	if _, err := c.Connect(t.Context(), ""); err == nil || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "cannot route ****") {
		t.Errorf("%v", err)
	}
}

func TestConnect_LeavesNamesToTheDialerAndIsBounded(t *testing.T) {
	asked := ""
	c, err := Open(Config{Name: "us-east", ConnectTimeout: 50 * time.Millisecond,
		DSN: func() (string, error) { return "host=db.us.example user=u sslmode=disable", nil },
		Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
			asked = address
			<-ctx.Done()
			return nil, ctx.Err()
		}})
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if _, err := c.Connect(t.Context(), ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if took := time.Since(begun); asked != "db.us.example:5432" || took > 5*time.Second {
		t.Errorf("dialled %q, took %s", asked, took)
	}
}

func TestReplication_AsksForThePhysicalKind(t *testing.T) {
	seen := make(chan map[string]string, 2)
	c := open(t, "host=h user=u sslmode=disable", func(context.Context, string, string) (net.Conn, error) {
		mine, theirs := net.Pipe()
		go func() { // ends with the pipe
			defer theirs.Close()
			m, err := pgproto3.NewBackend(theirs, theirs).ReceiveStartupMessage()
			if s, ok := m.(*pgproto3.StartupMessage); ok && err == nil {
				seen <- s.Parameters
			}
		}()
		return mine, nil
	})
	if _, err := c.Replication(t.Context()); err == nil {
		t.Fatal("no error")
	}
	if p := <-seen; p["replication"] != "true" || p["application_name"] != "holdfast" {
		t.Errorf("%v", p)
	}
}

func TestMajor(t *testing.T) {
	for in, want := range map[string]int{"14.23": 14, "14.23 (Debian 14.23-1.pgdg)": 14, "18beta1": 18, "17": 17} {
		if got, err := Major(in); got != want || err != nil {
			t.Errorf("%q: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "x", "-1", ".5", "99999999999999999999"} {
		if got, err := Major(in); err == nil {
			t.Errorf("%q: %d", in, got)
		}
	}
}

// refusing is a server that says no at once.
func refusing() net.Conn {
	mine, theirs := net.Pipe()
	go func() { // ends with the pipe
		defer theirs.Close()
		b := pgproto3.NewBackend(theirs, theirs)
		if _, err := b.ReceiveStartupMessage(); err != nil {
			return
		}
		b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: "go away"})
		_ = b.Flush()
	}()
	return mine
}
