package config

import (
	"encoding"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/holdfast-dr/holdfast/internal/schedule"
)

// notYet are the keys of the format that this version knows and does not
// support. They are refused: reading and ignoring one would be a promise that
// nobody keeps.
var notYet = map[string]string{
	"preset":          "say which topics under mirror.preset",
	"regions.*.redis": "replicate and promote it by other means, from the stop and start hooks of a role",
}

// decoder fills a Fleet from a syntax tree. It goes on after a problem, so
// that one run reports them all, and remembers where each key stands.
type decoder struct {
	file     string
	problems Problems
	where    map[string]place
	// tainted holds the sections (first element of the path) with a problem:
	// what follows from them is not worth reporting.
	tainted map[string]bool
}

// refuse reports a problem after which the section is not worth checking.
func (d *decoder) refuse(at ast.Node, path, what, why, try string) {
	d.report(at, path, what, why, try)
	d.tainted[section(path)] = true
}

// report reports a problem that leaves the rest of the section readable.
func (d *decoder) report(at ast.Node, path, what, why, try string) {
	p := position(at)
	d.problems = append(d.problems, Problem{File: d.file, Line: p.line, Column: p.column, Path: path, What: what, Why: why, Try: try})
}

// section is the first element of a path.
func section(path string) string {
	if i := strings.IndexAny(path, ".["); i >= 0 {
		return path[:i]
	}
	return path
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
	wordType     = reflect.TypeFor[word]()
)

// value reads node into v.
func (d *decoder) value(node ast.Node, path string, v reflect.Value) {
	switch n := node.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		d.refuse(node, path, "anchors, aliases and merge keys are not supported", "each part of the fleet should say for itself what it is", "write the value out")
		return
	case *ast.TagNode:
		d.refuse(node, path, fmt.Sprintf("the tag %s is not supported", n.Start.Value), "", "write the plain value")
		return
	case *ast.NullNode, nil:
		d.refuse(node, path, "has no value", "an empty value may be a slip, and its default may not be what was meant", "give it a value, or remove the key for its default")
		return
	}
	switch {
	case v.Type() == durationType:
		d.duration(node, path, v)
		return
	case v.CanAddr() && v.Addr().Type().Implements(textType):
		d.text(node, path, v)
		return
	case v.Type().Implements(wordType):
		d.word(node, path, v)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(node, path, v)
	case reflect.Map:
		d.mapping(node, path, v)
	case reflect.Slice:
		d.list(node, path, v)
	case reflect.Pointer:
		fresh := reflect.New(v.Type().Elem())
		prepare(fresh)
		d.value(node, path, fresh.Elem())
		v.Set(fresh)
	case reflect.String:
		if s, ok := d.plain(node, path, "a text"); ok {
			v.SetString(s)
		}
	case reflect.Bool:
		b, ok := node.(*ast.BoolNode)
		if !ok {
			d.wrong(node, path, "true or false", "")
			return
		}
		v.SetBool(b.Value)
	case reflect.Int:
		n, ok := node.(*ast.IntegerNode)
		if !ok {
			d.wrong(node, path, "a whole number", "")
			return
		}
		i, err := strconv.Atoi(fmt.Sprint(n.Value))
		if err != nil {
			d.wrong(node, path, "a whole number that fits", "")
			return
		}
		v.SetInt(int64(i))
	default:
		// The types of the file are ours; a kind that is missing here is a
		// mistake that the first test shows.
		panic(fmt.Sprintf("config: no way to read a %s", v.Type()))
	}
}

// prepare sets the defaults of what v points to.
func prepare(v reflect.Value) {
	if p, ok := v.Interface().(interface{ setDefaults() }); ok {
		p.setDefaults()
	}
}

// entries returns the pairs of a mapping, or refuses the node.
func (d *decoder) entries(node ast.Node, path string) ([]*ast.MappingValueNode, bool) {
	switch n := node.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	d.wrong(node, path, "keys with values", "")
	return nil, false
}

// each calls read once for each key of a mapping that is written well.
func (d *decoder) each(node ast.Node, path string, read func(key string, at, value ast.Node)) {
	entries, ok := d.entries(node, path)
	if !ok {
		return
	}
	seen := map[string]ast.Node{}
	for _, e := range entries {
		if _, merge := e.Key.(*ast.MergeKeyNode); merge {
			d.refuse(e.Key, path, "anchors, aliases and merge keys are not supported", "each part of the fleet should say for itself what it is", "write the value out")
			continue
		}
		key := e.Key.GetToken().Value
		here := join(path, key)
		if first, twice := seen[key]; twice {
			d.refuse(e.Key, here, fmt.Sprintf("is written twice; the first is on line %d", first.GetToken().Position.Line), "only one of them could count", "remove one")
			continue
		}
		seen[key] = e.Key
		pos := e.Key.GetToken().Position
		d.where[here] = place{pos.Line, pos.Column}
		read(key, e.Key, e.Value)
	}
}

func (d *decoder) structure(node ast.Node, path string, v reflect.Value) {
	fields := fieldsOf(v.Type())
	d.each(node, path, func(key string, at, value ast.Node) {
		here := join(path, key)
		i, known := fields[key]
		if !known {
			d.unknown(at, path, key, fields)
			return
		}
		d.value(value, here, v.Field(i))
	})
}

// unknown refuses a key, and says what it may have been meant to be.
func (d *decoder) unknown(at ast.Node, path, key string, fields map[string]int) {
	here := join(path, key)
	if instead, ok := notYet[general(here)]; ok {
		d.report(at, here, "not supported yet by this version", "a part that is read and ignored would be a promise that nobody keeps", "remove it, and "+instead)
		return
	}
	known := make([]string, 0, len(fields))
	for f := range fields {
		known = append(known, f)
	}
	slices.Sort(known)
	try := "one of " + strings.Join(known, ", ")
	if word, ok := nearest(key, known); ok {
		try = fmt.Sprintf("did you mean %s?", word)
	} else if homes := homesOf(key); len(homes) > 0 {
		try = fmt.Sprintf("it belongs at %s; here: %s", strings.Join(homes, " or "), strings.Join(known, ", "))
	}
	d.refuse(at, here, "unknown key", "", try)
}

func (d *decoder) mapping(node ast.Node, path string, v reflect.Value) {
	v.Set(reflect.MakeMap(v.Type()))
	d.each(node, path, func(key string, _, value ast.Node) {
		elem := reflect.New(v.Type().Elem())
		prepare(elem)
		d.value(value, join(path, key), elem.Elem())
		v.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), elem.Elem())
	})
}

func (d *decoder) list(node ast.Node, path string, v reflect.Value) {
	seq, ok := node.(*ast.SequenceNode)
	if !ok {
		d.wrong(node, path, "a list", "[a, b] or one line with a dash for each")
		return
	}
	list := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, elem := range seq.Values {
		here := fmt.Sprintf("%s[%d]", path, i)
		if pos := position(elem); pos != (place{}) {
			d.where[here] = pos
		}
		d.value(elem, here, list.Index(i))
	}
	v.Set(list)
}

func (d *decoder) duration(node ast.Node, path string, v reflect.Value) {
	const example = "16s, 1m30s or 250ms"
	s, ok := node.(*ast.StringNode)
	if !ok {
		if n, number := node.(*ast.IntegerNode); number {
			d.wrong(node, path, "a duration with its unit", fmt.Sprintf("%vs for seconds, %vm for minutes", n.Value, n.Value))
			return
		}
		d.wrong(node, path, "a duration", example)
		return
	}
	dur, err := time.ParseDuration(s.Value)
	if err != nil {
		d.wrong(node, path, "a duration", example)
		return
	}
	if dur < 0 {
		d.refuse(node, path, fmt.Sprintf("%s is negative", s.Value), "", "a duration of 0s or more")
		return
	}
	v.SetInt(int64(dur))
}

// text reads a value that knows its own form. Its errors must not repeat the
// text, which may be a secret in the wrong place.
func (d *decoder) text(node ast.Node, path string, v reflect.Value) {
	s, ok := scalar(node)
	if !ok {
		d.wrong(node, path, "a text", "")
		return
	}
	u, ok := v.Addr().Interface().(encoding.TextUnmarshaler)
	if !ok {
		panic("config: " + v.Type().String() + " reads no text") // value has looked
	}
	if err := u.UnmarshalText([]byte(s)); err != nil {
		why, try := "", ""
		if v.Type() == reflect.TypeFor[Secret]() {
			why, try = "the fleet file is kept in git and copied to every region", "put the secret into a file of mode 0640 and write file:/etc/holdfast/NAME"
		}
		if v.Type() == reflect.TypeFor[schedule.Schedule]() {
			try = `"17 * * * *" is 17 minutes past each hour, "0 4 * * 0" is Sunday at 4 UTC; or @hourly, @daily, @weekly`
		}
		d.refuse(node, path, err.Error(), why, try)
	}
}

func (d *decoder) word(node ast.Node, path string, v reflect.Value) {
	s, ok := d.plain(node, path, "a word")
	if !ok {
		return
	}
	w, ok := v.Interface().(word)
	if !ok {
		panic("config: " + v.Type().String() + " is no word") // value has looked
	}
	if !slices.Contains(w.Spellings(), s) {
		try := "one of " + strings.Join(w.Spellings(), ", ")
		if close, ok := nearest(s, w.Spellings()); ok {
			try = fmt.Sprintf("did you mean %s? (%s)", close, try)
		}
		d.refuse(node, path, fmt.Sprintf("%q is not known here", shorten(s)), "", try)
		return
	}
	v.SetString(s)
}

// plain reads a text that is written as one: a number or a truth value in its
// place is more often a slip than a name.
func (d *decoder) plain(node ast.Node, path, want string) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		d.wrong(node, path, want, fmt.Sprintf("quote it if it is meant: %q", shorten(node.GetToken().Value)))
		return "", false
	}
	if s, ok := addressOf(node); ok {
		return s, true
	}
	d.wrong(node, path, want, "")
	return "", false
}

// addressOf reads host:port within brackets within braces as the text that
// YAML says it is; the parser takes it for a key and its value.
func addressOf(node ast.Node) (string, bool) {
	if m, ok := node.(*ast.MappingNode); ok && len(m.Values) == 1 {
		node = m.Values[0]
	}
	pair, ok := node.(*ast.MappingValueNode)
	if !ok {
		return "", false
	}
	key, plain := pair.Key.(*ast.StringNode)
	if !plain || pair.Value == nil || key.Token.Type != token.StringType {
		return "", false
	}
	value, isScalar := scalar(pair.Value)
	at, end := pair.Value.GetToken().Position, key.Token.Position
	if !isScalar || at.Line != end.Line || at.Column != end.Column+len(key.Value)+1 {
		return "", false
	}
	return key.Value + ":" + value, true
}

// scalar is the text of any single value.
func scalar(node ast.Node) (string, bool) {
	switch n := node.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return node.GetToken().Value, true
	}
	return "", false
}

func (d *decoder) wrong(node ast.Node, path, want, try string) {
	d.refuse(node, path, fmt.Sprintf("want %s, got %s", want, kind(node)), "", try)
}

func kind(node ast.Node) string {
	switch n := node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "keys with values"
	case *ast.SequenceNode:
		return "a list"
	case *ast.StringNode:
		return fmt.Sprintf("the text %q", shorten(n.Value))
	case *ast.LiteralNode:
		return "a text of several lines"
	case *ast.IntegerNode, *ast.FloatNode:
		return "the number " + shorten(node.GetToken().Value)
	case *ast.BoolNode:
		return n.GetToken().Value
	}
	return "something else"
}

func shorten(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

func position(node ast.Node) place {
	switch n := node.(type) { // a mapping's own token is the colon of its first key
	case *ast.MappingValueNode:
		node = n.Key
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			node = n.Values[0].Key
		}
	}
	if node == nil || node.GetToken() == nil || node.GetToken().Position == nil {
		return place{}
	}
	pos := node.GetToken().Position
	return place{pos.Line, pos.Column}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// fieldsOf maps the keys of a struct of the file to its fields.
func fieldsOf(t reflect.Type) map[string]int {
	fields := map[string]int{}
	for i := range t.NumField() {
		if key := t.Field(i).Tag.Get("yaml"); key != "" && key != "-" {
			fields[key] = i
		}
	}
	return fields
}

// keys lists the paths of all keys of the file, with * for names.
var keys = func() []string {
	var paths []string
	var walk func(t reflect.Type, path string)
	walk = func(t reflect.Type, path string) {
		switch {
		case t.Kind() == reflect.Pointer:
			walk(t.Elem(), path)
		case t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct:
			walk(t.Elem(), path+".*")
		case t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(textType):
			for key, i := range fieldsOf(t) {
				here := join(path, key)
				paths = append(paths, here)
				walk(t.Field(i).Type, here)
			}
		}
	}
	walk(reflect.TypeFor[Fleet](), "")
	slices.Sort(paths)
	return paths
}()

// homesOf lists where a key of this name is known, three at most.
func homesOf(key string) []string {
	var homes []string
	for _, k := range keys {
		if strings.HasSuffix(k, "."+key) && len(homes) < 3 {
			homes = append(homes, k)
		}
	}
	return homes
}

var index = regexp.MustCompile(`\[\d+\]`)

// general replaces the names of nodes, regions and roles in a path by *.
func general(path string) string {
	parts := strings.Split(index.ReplaceAllString(path, ""), ".")
	if len(parts) > 1 && slices.Contains([]string{"nodes", "regions", "roles"}, parts[0]) {
		parts[1] = "*"
	}
	return strings.Join(parts, ".")
}

// at finds where a path stands, or the nearest key above it.
func at(where map[string]place, path string) place {
	for path != "" {
		if p, ok := where[path]; ok {
			return p
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return place{}
}
