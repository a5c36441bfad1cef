package clickhouse

import (
	"fmt"
	"strings"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/clickhouse"
)

// createAs is the definition of a table under another name. Only the head of
// the server's own text is changed: whatever follows the name stays as it is.
func createAs(t backup.ClickHouseTable, database, name string) (string, error) {
	rest, ok := strings.CutPrefix(t.Create, "CREATE TABLE ")
	if !ok {
		return "", fmt.Errorf("the definition of %s.%s does not begin with CREATE TABLE", t.Database, t.Name)
	}
	first, rest, err := identifier(rest)
	if err != nil {
		return "", fmt.Errorf("the definition of %s.%s: %w", t.Database, t.Name, err)
	}
	rest, ok = strings.CutPrefix(rest, ".")
	if !ok {
		return "", fmt.Errorf("the definition of %s.%s names no database", t.Database, t.Name)
	}
	second, rest, err := identifier(rest)
	if err != nil {
		return "", fmt.Errorf("the definition of %s.%s: %w", t.Database, t.Name, err)
	}
	if first != t.Database || second != t.Name {
		return "", fmt.Errorf("the definition of %s.%s is that of %s.%s", t.Database, t.Name, first, second)
	}
	// A server that shows ids would have the scratch table claim the id of its source.
	if after, ok := strings.CutPrefix(rest, " UUID '"); ok {
		_, after, ok := strings.Cut(after, "'")
		if !ok {
			return "", fmt.Errorf("the definition of %s.%s: its UUID has no end", t.Database, t.Name)
		}
		rest = after
	}
	if !strings.HasPrefix(rest, " (") && !strings.HasPrefix(rest, "\n(") {
		return "", fmt.Errorf("the definition of %s.%s: no list of columns after its name", t.Database, t.Name)
	}
	return "CREATE TABLE " + clickhouse.TableName(database, name) + rest, nil
}

// identifier reads a name at the start of a statement, quoted or bare.
func identifier(s string) (name, rest string, err error) {
	if s == "" {
		return "", "", fmt.Errorf("a name was expected")
	}
	quote := s[0]
	if quote != '`' && quote != '"' {
		end := strings.IndexFunc(s, func(r rune) bool {
			return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		})
		if end <= 0 {
			return "", "", fmt.Errorf("a name was expected")
		}
		return s[:end], s[end:], nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s):
			i++
			c, ok := escapes[s[i]]
			if !ok {
				c = s[i]
			}
			b.WriteByte(c)
		case s[i] == quote && i+1 < len(s) && s[i+1] == quote:
			i++
			b.WriteByte(quote)
		case s[i] == quote:
			return b.String(), s[i+1:], nil
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", fmt.Errorf("a quoted name has no end")
}

var escapes = map[byte]byte{'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t', '0': 0, 'a': '\a', 'v': '\v'}
