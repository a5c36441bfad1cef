package clickhouse

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestOpen_SaysWhatIsWrongBeforeItDials(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(notPEM, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		conf Config
		want string
	}{
		"no address":  {Config{Name: "us-east"}, "clickhouse us-east: no addresses"},
		"no password": {Config{Name: "us-east", Addresses: []string{"a:1"}, Password: func() (string, error) { return "", errors.New("gone") }}, "read the password: gone"},
		"no CA":       {Config{Name: "us-east", Addresses: []string{"a:1"}, TLS: &TLS{CAFile: "/nowhere/ca.pem"}}, "read the certificate authorities"},
		"not a CA":    {Config{Name: "us-east", Addresses: []string{"a:1"}, TLS: &TLS{CAFile: notPEM}}, "no certificate in"},
	} {
		_, err := Open(c.conf)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestSelect_GoesThroughTheDialerAndNamesTheRegion(t *testing.T) {
	asked := ""
	c, err := Open(Config{Name: "us-east", Addresses: []string{"ch1.us:9440"}, Dial: func(_ context.Context, _, address string) (net.Conn, error) {
		asked = address
		return nil, errors.New("the line is cut")
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	_, err = c.Select(ctx, "SELECT 1")
	if asked != "ch1.us:9440" {
		t.Errorf("dialled %q", asked)
	}
	if err == nil || !strings.Contains(err.Error(), "us-east") || !strings.Contains(err.Error(), "the line is cut") {
		t.Errorf("%v", err)
	}
}
