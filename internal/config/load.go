package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// The bounds of a fleet file. A real one is a tenth of sizeMax and six levels
// deep; the YAML parser's cost grows with the square of both.
const (
	sizeMax  = 64 << 10
	depthMax = 32 // of brackets, and of indicators on one line
)

// problemsMax bounds what is said about one file.
const problemsMax = 50

// Load reads, completes and checks the fleet file at path. A file that can be
// read and must be refused gives Problems.
func Load(path string) (*Fleet, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the fleet file: %w; pass --config with its path", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, sizeMax+1))
	if err != nil {
		return nil, fmt.Errorf("read the fleet file: %w", err)
	}
	return Parse(path, text)
}

// Parse does what Load does with a text. The name is used in messages only.
func Parse(name string, text []byte) (*Fleet, error) {
	d := decoder{file: name, where: map[string]place{}, tainted: map[string]bool{}}
	fleet := &Fleet{where: d.where, file: name}
	fleet.setDefaults()
	if body := d.parse(text); body != nil {
		d.value(body, "", reflect.ValueOf(fleet).Elem())
		fleet.derive()
		d.problems = append(d.problems, fleet.check(d.tainted)...)
	}
	if len(d.problems) > 0 {
		d.problems.sort()
		if more := len(d.problems) - problemsMax; more > 0 {
			d.problems = append(d.problems[:problemsMax:problemsMax], Problem{File: name, What: fmt.Sprintf("has %d more problems", more), Try: "is it the right file?"})
		}
		return nil, d.problems
	}
	return fleet, nil
}

// Check reports all that a fleet must hold and does not. Load and Parse have
// called it; it is for a Fleet that was changed in code, such as in a test.
func (f *Fleet) Check() error {
	if problems := f.check(nil); len(problems) > 0 {
		problems.sort()
		return problems
	}
	return nil
}

// parse returns the one mapping that a fleet file consists of, or nil after a
// refusal.
func (d *decoder) parse(text []byte) (body ast.Node) {
	if len(text) > sizeMax {
		d.refuse(nil, "", fmt.Sprintf("is longer than %d KiB", sizeMax>>10), "", "is it the right file?")
		return nil
	}
	// The parser is somebody else's and sees what anybody may write.
	defer func() {
		if r := recover(); r != nil {
			d.refuse(nil, "", "is not YAML that can be read", fmt.Sprint(r), "look for a broken quote or bracket")
			body = nil
		}
	}()
	if t := tooDeep(text); t != nil {
		d.problems = append(d.problems, Problem{File: d.file, Line: t.Position.Line, Column: t.Position.Column, What: fmt.Sprintf("is nested more than %d deep", depthMax), Try: "is it the right file?"})
		return nil
	}
	file, err := parser.ParseBytes(text, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		p := Problem{File: d.file, What: "is not YAML", Why: err.Error(), Try: "look at the line and the one above it: indentation, quotes, brackets"}
		var syntax yaml.Error
		if errors.As(err, &syntax) {
			p.Why = syntax.GetMessage()
			if t := syntax.GetToken(); t != nil && t.Position != nil {
				p.Line, p.Column = t.Position.Line, t.Position.Column
			}
		}
		d.problems = append(d.problems, p)
		return nil
	}
	for _, doc := range file.Docs {
		if doc.Body == nil {
			continue
		}
		if _, comment := doc.Body.(*ast.CommentGroupNode); comment {
			continue
		}
		if body != nil {
			d.refuse(doc.Body, "", "has a second document", "one file describes one fleet", "remove the line --- and what follows")
			return nil
		}
		body = doc.Body
	}
	if body == nil {
		d.refuse(nil, "", "is empty", "", "start from deploy/holdfast.sample.yaml")
		return nil
	}
	return body
}

// tooDeep finds the first token that is nested deeper than depthMax.
func tooDeep(text []byte) *token.Token {
	brackets, line, onLine := 0, 0, 0
	for _, t := range lexer.Tokenize(string(text)) {
		if t.Position.Line != line {
			line, onLine = t.Position.Line, 0
		}
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			brackets++
		case token.SequenceEndType, token.MappingEndType:
			brackets--
		case token.SequenceEntryType, token.MappingKeyType, token.TagType, token.AnchorType:
			onLine++
		}
		if brackets > depthMax || onLine > depthMax {
			return t
		}
	}
	return nil
}
