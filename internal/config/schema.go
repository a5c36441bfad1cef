package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/invopop/jsonschema"

	"github.com/holdfast-dr/holdfast/internal/schedule"
)

// Schema is the JSON Schema of the fleet file, for editors and reviews. It
// knows keys, types and spellings; relations are checked by Load alone.
func Schema() []byte {
	r := jsonschema.Reflector{
		FieldNameTag:               "yaml",
		RequiredFromJSONSchemaTags: true,
		Anonymous:                  true,
		ExpandedStruct:             true,
		Mapper:                     mapType,
		Namer:                      definition,
	}
	schema := r.Reflect(&Fleet{})
	schema.Title = "holdfast fleet file"
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(schema); err != nil {
		// The schema is made of our own types and holds no value that JSON
		// could refuse; a test encodes it.
		panic(fmt.Sprintf("config: encode schema: %v", err))
	}
	return out.Bytes()
}

// definition names a type within the schema. The name of a region is no
// region, though both types are called Region.
func definition(t reflect.Type) string {
	if t.Kind() == reflect.String {
		return t.String() // with its package
	}
	return t.Name()
}

func mapType(t reflect.Type) *jsonschema.Schema {
	switch {
	case t == durationType:
		return &jsonschema.Schema{Type: "string", Pattern: `^([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$`, Examples: []any{"16s", "250ms"}}
	case t == reflect.TypeFor[Secret]():
		return &jsonschema.Schema{Type: "string", Pattern: `^(file:/.+|env:[^= ]+)$`}
	case t == reflect.TypeFor[Pattern]():
		return &jsonschema.Schema{Type: "string", Format: "regex"}
	case t == reflect.TypeFor[Rate]():
		return &jsonschema.Schema{Type: "string", Pattern: `^[0-9.]+ ?([kKMG]i?)?B(/s)?$`, Examples: []any{"50MB/s"}}
	case t == reflect.TypeFor[Share]():
		return &jsonschema.Schema{Type: "string", Pattern: `^[0-9.]+ ?%$`, Examples: []any{"5%"}}
	case t == reflect.TypeFor[schedule.Schedule]():
		return &jsonschema.Schema{Type: "string", Examples: []any{"17 * * * *", "@daily"}}
	case t.Implements(wordType):
		w, ok := reflect.Zero(t).Interface().(word)
		if !ok {
			return nil
		}
		s := &jsonschema.Schema{Type: "string"}
		for _, spelling := range w.Spellings() {
			s.Enum = append(s.Enum, spelling)
		}
		return s
	}
	return nil
}
