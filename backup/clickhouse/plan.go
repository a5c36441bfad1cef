package clickhouse

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"slices"
	"strconv"

	"github.com/holdfast-dr/holdfast/backup"
)

// plan says what to take and what to refer to again.
type plan struct {
	take []partition // ordered by database, table and id
	keep []kept
}

type kept struct {
	partition
	was backup.ClickHousePartition
}

// fingerprint is a hash over the content of parts and the definition of their
// table. A merge changes it although no row changed; a change never leaves it.
// It is empty when the hash of a part is not known.
func fingerprint(t backup.ClickHouseTable, hashes []string) string {
	if len(hashes) == 0 || slices.Contains(hashes, "") {
		return ""
	}
	h := sha256.New()
	write := func(s string) {
		// A length before each text keeps their borders.
		_, _ = io.WriteString(h, strconv.Itoa(len(s))+":"+s) // a hash never fails
	}
	write(t.Create)
	write(strconv.Itoa(len(t.Columns)))
	for _, c := range t.Columns {
		write(c.Name)
		write(c.Type)
		write(c.Kind)
	}
	for _, p := range slices.Sorted(slices.Values(hashes)) {
		write(p)
	}
	return "v1:" + hex.EncodeToString(h.Sum(nil))
}

// partitionParts groups the parts that hold rows now. Parts without rows stand
// for what was dropped.
func (t table) partitionParts() map[string][]part {
	groups := map[string][]part{}
	for _, p := range t.parts {
		if _, patch := p.patches(); p.active && p.rows > 0 && !patch {
			groups[p.partition] = append(groups[p.partition], p)
		}
	}
	return groups
}

// makePlan compares what is there with the newest sealed set. It does no I/O.
func makePlan(s source, prev *backup.Manifest) plan {
	was := map[partition]backup.ClickHousePartition{}
	if prev != nil && prev.ClickHouse != nil {
		for _, t := range prev.ClickHouse.Tables {
			for _, p := range t.Partitions {
				// A pack that the manifest does not describe cannot be referred to.
				if p.Fingerprint != "" && p.RowHash != "" && p.Pack >= 0 && p.Pack < len(prev.Packs) {
					was[partition{t.Database, t.Name, p.ID}] = p
				}
			}
		}
	}
	var out plan
	for _, t := range s.tables {
		if !t.holdsData() {
			continue
		}
		groups := t.partitionParts()
		ids := make([]string, 0, len(groups))
		for id := range groups {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		for _, id := range ids {
			hashes := make([]string, 0, len(groups[id]))
			for _, p := range groups[id] {
				hashes = append(hashes, p.hash)
			}
			key := partition{t.Database, t.Name, id}
			if old, ok := was[key]; ok && old.Fingerprint == fingerprint(t.ClickHouseTable, hashes) {
				out.keep = append(out.keep, kept{key, old})
				continue
			}
			out.take = append(out.take, key)
		}
	}
	return out
}
