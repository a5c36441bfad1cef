package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/holdfast-dr/holdfast/internal/schedule"
)

// Agreed lists what all nodes must agree on, defaults included, as path and
// value: roles, timings, the mirror, who is in which region and which stores
// are meant. Left out is what only one node uses, such as its directories,
// and how it authenticates, so that a rotated credential voids no plan.
// Comparing two lists names the drift.
func (f *Fleet) Agreed() map[string]string {
	out := map[string]string{}
	flatten(reflect.ValueOf(f).Elem(), "", out)
	return out
}

// Digest is a short name for Agreed: equal digests mean that two nodes were
// told the same. It is 64 hexadecimal digits and does not depend on the order,
// the comments or the spelling of defaults in the file.
func (f *Fleet) Digest() string {
	agreed := f.Agreed()
	sum := sha256.New()
	for _, path := range slices.Sorted(maps.Keys(agreed)) {
		fmt.Fprintf(sum, "%d:%s=%d:%s\n", len(path), path, len(agreed[path]), agreed[path])
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func flatten(v reflect.Value, path string, out map[string]string) {
	switch value := v.Interface().(type) {
	case time.Duration:
		out[path] = value.String()
		return
	case Pattern:
		out[path] = value.String()
		return
	case schedule.Schedule:
		out[path] = value.String()
		return
	case Rate:
		out[path] = value.String()
		return
	case Share:
		out[path] = value.String()
		return
	case Secret:
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			out[path] = "given"
			flatten(v.Elem(), path, out)
		}
	case reflect.Struct:
		t := v.Type()
		for i := range t.NumField() {
			key := t.Field(i).Tag.Get("yaml")
			if key != "" && key != "-" && t.Field(i).Tag.Get("agree") != "-" {
				flatten(v.Field(i), join(path, key), out)
			}
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			flatten(v.MapIndex(key), join(path, key.String()), out)
		}
	case reflect.Slice:
		for i := range v.Len() {
			flatten(v.Index(i), fmt.Sprintf("%s[%d]", path, i), out)
		}
	default:
		out[path] = fmt.Sprint(v.Interface())
	}
}
