package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
)

// secretMax bounds a secret's file: a longer one is the wrong file.
const secretMax = 64 << 10

const stars = "***"

// Secret is a reference to a secret, "file:PATH" or "env:NAME". It never holds
// the value, and prints as stars everywhere; Resolve reads the value when it
// is used, so that a rotated secret takes effect at the next connection.
type Secret struct{ reference string }

var errLiteral = errors.New("want a reference, file:/absolute/path or env:NAME")

// UnmarshalText takes a reference. A literal secret is refused, and the error
// does not repeat it.
func (s *Secret) UnmarshalText(text []byte) error {
	kind, where, _ := strings.Cut(string(text), ":")
	switch {
	case kind == "file" && strings.HasPrefix(where, "/"), kind == "env" && where != "" && !strings.ContainsAny(where, "= \t\n"):
		s.reference = string(text)
		return nil
	}
	return errLiteral
}

// Reference says where the secret comes from; it is safe to show.
func (s Secret) Reference() string { return s.reference }

// IsZero reports whether no secret was given.
func (s Secret) IsZero() bool { return s.reference == "" }

// Resolve reads the secret. One line break at the end of a file is not part of
// it. An absent or empty secret is an error that names the reference; the
// value never appears in an error.
func (s Secret) Resolve() (string, error) {
	kind, where, _ := strings.Cut(s.reference, ":")
	var value string
	switch kind {
	case "":
		return "", errors.New("resolve secret: none was given")
	case "env":
		value = os.Getenv(where)
		if value == "" {
			return "", fmt.Errorf("resolve secret %s: the variable is not set or empty; set it in the daemon's environment (systemd: EnvironmentFile=)", s.reference)
		}
		return value, nil
	}
	file, err := os.Open(where)
	if err != nil {
		return "", fmt.Errorf("resolve secret %s: %w; the daemon's user must be able to read it", s.reference, err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, secretMax+1))
	if err != nil {
		return "", fmt.Errorf("resolve secret %s: %w", s.reference, err)
	}
	if len(text) > secretMax {
		return "", fmt.Errorf("resolve secret %s: longer than %d bytes; is it the right file?", s.reference, secretMax)
	}
	value = strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if value == "" {
		return "", fmt.Errorf("resolve secret %s: the file is empty", s.reference)
	}
	return value, nil
}

// String prints stars.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return stars
}

// GoString prints stars.
func (s Secret) GoString() string { return "config.Secret{" + s.String() + "}" }

// Format prints stars for every verb.
func (s Secret) Format(f fmt.State, verb rune) {
	if verb == 'v' && f.Flag('#') {
		_, _ = io.WriteString(f, s.GoString())
		return
	}
	_, _ = io.WriteString(f, s.String())
}

// MarshalText prints stars, in JSON and YAML too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue prints stars.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }
