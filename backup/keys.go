package backup

import (
	"fmt"
	"strings"
)

// The folders of a repository. Objects are written once; only sets/ and
// tombs/ are ever listed, and only drills/ is written by a reader.
const (
	SetPrefix     = "sets/"
	SessionPrefix = "sessions/"
	TombPrefix    = "tombs/"
	DrillPrefix   = "drills/"
)

// BlobKey names a blob by the hash of its stored bytes. The unique tail makes
// overwriting impossible in a store without conditional puts.
func BlobKey(sum Digest, unique string) string {
	return fmt.Sprintf("blobs/%s/%s-%s", sum[:2], sum, unique)
}

// PackPrefix is the folder that a server writes a pack to, with a slash at its end.
func PackPrefix(e Engine, id string) string { return fmt.Sprintf("packs/%s/%s/", e, id) }

// PackIndexKey names the hashes of a pack's objects.
func PackIndexKey(e Engine, id string) string { return fmt.Sprintf("packs/%s/%s.json", e, id) }

// ManifestKey names the manifest of one engine in one attempt at a set.
func ManifestKey(set SetID, attempt string, e Engine) string {
	return fmt.Sprintf("snapshots/%s/%s/%s.json", set, attempt, e)
}

// SealKey names the seal of a set.
func SealKey(set SetID) string { return SetPrefix + string(set) + ".json" }

// SetOfSealKey is the inverse of SealKey.
func SetOfSealKey(key string) (SetID, bool) {
	id, ok := strings.CutPrefix(key, SetPrefix)
	if !ok {
		return "", false
	}
	id, ok = strings.CutSuffix(id, ".json")
	return SetID(id), ok && len(id) == 26 && !strings.Contains(id, "/")
}

// SessionKey names the note that an attempt at a set is under way.
func SessionKey(set SetID, attempt string) string {
	return SessionPrefix + string(set) + "-" + attempt + ".json"
}

// DrillKey names the sealed report of one drill of a set; the page for people
// has the ending .md instead.
func DrillKey(set SetID, run string) string { return DrillPrefix + string(set) + "/" + run + ".json" }

// TombKey marks an object for removal: a blob by its key, a pack by the key of
// its index. What is marked is never used by a new set.
func TombKey(key string) string { return TombPrefix + key }
