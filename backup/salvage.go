package backup

import (
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// SalvagePrefix is the folder of salvages: records that a region accepted and
// that were never mirrored from it.
const SalvagePrefix = "orphans/"

// Salvage is the seal of one salvage: written last, once, and signed.
type Salvage struct {
	Format  int             `json:"format"`
	ID      string          `json:"id"` // a ULID
	Link    string          `json:"link"`
	Epoch   uint64          `json:"epoch"` // of the link
	Cluster string          `json:"cluster"`
	Region  topology.Region `json:"region"` // whose records these are
	Node    topology.Node   `json:"node"`   // who wrote and signed it
	Version string          `json:"version"`
	Sealed  time.Time       `json:"sealed"`
	Parts   []SalvagePart   `json:"parts"`
}

// SalvagePart is what was salvaged of one partition: all that its log held of
// [From, To), transaction markers and aborted records included.
type SalvagePart struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"`
	To        int64  `json:"to"`
	Records   int64  `json:"records"` // without aborted ones
	// Aborted are the transactions that were: who reads committed records
	// never saw theirs.
	Aborted []AbortedSpan  `json:"aborted,omitempty"`
	Blobs   []SalvagedBlob `json:"blobs"`
}

// AbortedSpan hides the transactional batches of one producer in [From, To).
type AbortedSpan struct {
	Producer int64 `json:"producer"`
	From     int64 `json:"from"`
	To       int64 `json:"to"`
}

// SalvagedBlob is a run of stored record batches as they were fetched, one
// after the other, compressed, and encrypted unless Plain.
type SalvagedBlob struct {
	Blob
	Plain bool `json:"plain,omitempty"`
}

// Totals sums the parts.
func (s Salvage) Totals() (records, bytes int64) {
	for _, p := range s.Parts {
		records += p.Records
		for _, b := range p.Blobs {
			bytes += b.Stored
		}
	}
	return records, bytes
}

// SalvageFolder is where the objects of a link's salvages lie.
func SalvageFolder(link string, epoch uint64) string {
	return fmt.Sprintf("%s%s-%d/", SalvagePrefix, strings.ReplaceAll(link, ">", "."), epoch)
}

// SalvageKey names the seal of a salvage.
func SalvageKey(link string, epoch uint64, id string) string {
	return SalvageFolder(link, epoch) + id + ".json"
}

// SalvagedBlobKey names the stored bytes of a blob, by their hash.
func SalvagedBlobKey(link string, epoch uint64, id string, sum Digest, unique string) string {
	return fmt.Sprintf("%s%s/%s-%s", SalvageFolder(link, epoch), id, sum, unique)
}
