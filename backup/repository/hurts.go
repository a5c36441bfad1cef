package repository

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/backup"
)

// namesMax is how many names a finding gives before it only counts.
const namesMax = 3

// hurtByBlob names the files that have a piece in a blob.
func hurtByBlob(m *backup.Manifest, blob int) string {
	if m.Postgres == nil {
		return fmt.Sprintf("what %s kept in it", m.Engine)
	}
	var files []string
	for _, f := range m.Postgres.Files {
		if slices.ContainsFunc(f.Pieces, func(p int) bool { return m.Pieces[p].Blob == blob }) {
			files = append(files, f.Name)
		}
	}
	return some(files, "file", "nothing that the manifest names")
}

// hurtByPack names the partitions that need an object of a pack; without a
// name, those that need the pack.
func hurtByPack(m *backup.Manifest, pack int, object string) string {
	if m.ClickHouse == nil {
		return fmt.Sprintf("what %s kept in pack %s", m.Engine, m.Packs[pack].ID)
	}
	table, part := partOf(object)
	var all, these []string
	for _, t := range m.ClickHouse.Tables {
		for _, p := range t.Partitions {
			if p.Pack != pack {
				continue
			}
			name := t.Name + " partition " + p.ID
			all = append(all, name)
			if table == t.Database+"/"+t.Name && slices.Contains(p.Parts, part) {
				these = append(these, name)
			}
		}
	}
	if len(these) == 0 {
		these = all // of the backup as a whole
	}
	return some(these, "partition", "nothing that the manifest names")
}

// partOf reads database/table and part from the name of an object in a native
// ClickHouse backup, data/DATABASE/TABLE/PART/FILE.
func partOf(object string) (table, part string) {
	names := strings.Split(object, "/")
	if len(names) < 5 || names[0] != "data" {
		return "", ""
	}
	for n := range names {
		if plain, err := url.PathUnescape(names[n]); err == nil {
			names[n] = plain
		}
	}
	return names[1] + "/" + names[2], names[3]
}

func some(names []string, unit, none string) string {
	switch n := len(names); {
	case n == 0:
		return none
	case n <= namesMax:
		return strings.Join(names, ", ")
	default:
		return fmt.Sprintf("%s and %d more (%d %ss)", strings.Join(names[:namesMax], ", "), n-namesMax, n, unit)
	}
}
