package clickhouse

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/backup"
)

// descriptionName is the object that a native backup is described by; the
// server writes it last.
const descriptionName = ".backup"

// descriptionBytesMax bounds what is read of it: about 190 bytes per file of a part.
const descriptionBytesMax = 256 << 20

// filesMax bounds how many files a pack may name.
const filesMax = 2_000_000

// description is what .backup says.
type description struct {
	id string // of the backup operation
	// objects are all that the folder must hold, .backup included, by name.
	objects []backup.PackObject
	// parts are the data parts of each table, in order.
	parts map[tableName][]string
}

// described is one file of a backup. A file without bytes is no object, and
// files that are equal share one: DataFile names it.
type described struct {
	Name     string `xml:"name"`
	Size     *int64 `xml:"size"`
	DataFile string `xml:"data_file"`
	UseBase  string `xml:"use_base"`
	BaseSize string `xml:"base_size"`
}

// parseDescription reads .backup and refuses what it does not understand: a
// file that is overlooked here would be missing in the hour of need.
func parseDescription(data []byte) (description, error) {
	d := description{parts: map[tableName][]string{}}
	if len(data) > descriptionBytesMax {
		return d, fmt.Errorf("read %s: more than %d bytes", descriptionName, descriptionBytesMax)
	}
	sizes := map[string]int64{descriptionName: int64(len(data))}
	seen := map[string]bool{}
	parts := map[tableName]map[string]bool{}
	in, path := xml.NewDecoder(bytes.NewReader(data)), []string{}
	ended := false
	for {
		token, err := in.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return d, fmt.Errorf("read %s: %w", descriptionName, err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			name := token.Name.Local
			where := strings.Join(append(path, name), "/")
			switch where {
			case "config/contents/file":
				var f described
				if err := in.DecodeElement(&f, &token); err != nil {
					return d, fmt.Errorf("read %s: %w", descriptionName, err)
				}
				if err := f.collect(seen, sizes, parts); err != nil {
					return d, fmt.Errorf("read %s: %w", descriptionName, err)
				}
				continue
			case "config/backup_id":
				if err := in.DecodeElement(&d.id, &token); err != nil {
					return d, fmt.Errorf("read %s: %w", descriptionName, err)
				}
				continue
			case "config/version":
				var version string
				if err := in.DecodeElement(&version, &token); err != nil {
					return d, fmt.Errorf("read %s: %w", descriptionName, err)
				}
				if version != "1" {
					return d, fmt.Errorf("read %s: version %q is not known: want 1", descriptionName, version)
				}
				continue
			case "config/base_backup", "config/base_backup_uuid":
				return d, fmt.Errorf("read %s: it builds on another backup", descriptionName)
			}
			if len(path) == 0 && (name != "config" || ended) {
				return d, fmt.Errorf("read %s: element %q where config was expected", descriptionName, name)
			}
			path = append(path, name)
		case xml.EndElement:
			path = path[:len(path)-1]
			ended = ended || len(path) == 0
		}
	}
	if !ended {
		return d, fmt.Errorf("read %s: it is empty", descriptionName)
	}
	for name, size := range sizes {
		d.objects = append(d.objects, backup.PackObject{Name: name, Bytes: size})
	}
	slices.SortFunc(d.objects, func(a, b backup.PackObject) int { return strings.Compare(a.Name, b.Name) })
	for table, names := range parts {
		for name := range names {
			d.parts[table] = append(d.parts[table], name)
		}
		slices.Sort(d.parts[table])
	}
	return d, nil
}

func (f described) collect(seen map[string]bool, sizes map[string]int64, parts map[tableName]map[string]bool) error {
	switch {
	case !safeName(f.Name):
		return fmt.Errorf("a file is named %q", f.Name)
	case seen[f.Name]:
		return fmt.Errorf("file %s is named twice", f.Name)
	case len(seen) >= filesMax:
		return fmt.Errorf("more than %d files", filesMax)
	case f.Size == nil || *f.Size < 0:
		return fmt.Errorf("file %s has no size", f.Name)
	case f.UseBase != "" || f.BaseSize != "":
		return fmt.Errorf("file %s lies in another backup", f.Name)
	}
	seen[f.Name] = true
	if *f.Size > 0 {
		object := f.Name
		if f.DataFile != "" {
			object = f.DataFile
		}
		if !safeName(object) || object == descriptionName {
			return fmt.Errorf("file %s lies in object %q", f.Name, object)
		}
		if size, ok := sizes[object]; ok && size != *f.Size {
			return fmt.Errorf("object %s has %d bytes and %d bytes", object, size, *f.Size)
		}
		sizes[object] = *f.Size
	}
	// data/DATABASE/TABLE/PART/FILE; mutations are no part.
	steps := strings.Split(f.Name, "/")
	if len(steps) < 5 || steps[0] != "data" || steps[3] == "mutations" {
		return nil
	}
	database, err1 := url.PathUnescape(steps[1])
	name, err2 := url.PathUnescape(steps[2])
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("file %s: %w", f.Name, err)
	}
	table := tableName{database, name}
	if parts[table] == nil {
		parts[table] = map[string]bool{}
	}
	parts[table][steps[3]] = true
	return nil
}

// safeName reports whether a name stays below the folder it is in.
func safeName(name string) bool {
	return name != "" && len(name) <= 4096 && path.Clean(name) == name && name != "." && name != ".." &&
		!strings.HasPrefix(name, "/") && !strings.HasPrefix(name, "../") && !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' })
}
