package topology

import (
	"cmp"
	"fmt"
	"regexp"
)

// Region names a place with its own Kafka and stores, such as "us-east".
type Region string

// Node names one daemon, such as "us-east-1". It is also its Raft server ID
// and the name its certificate must carry.
type Node string

// Role names a thing that exactly one region may do, such as "ingestion".
type Role string

// Well-known roles. A fleet may define others.
const (
	Ingestion Role = "ingestion"
	Query     Role = "query"
)

// Partition names one partition of one Kafka topic.
type Partition struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
}

// String returns "topic/partition", the form used in logs and tables.
func (p Partition) String() string { return fmt.Sprintf("%s/%d", p.Topic, p.Partition) }

// Compare orders by topic, then by partition.
func (p Partition) Compare(q Partition) int {
	return cmp.Or(cmp.Compare(p.Topic, q.Topic), cmp.Compare(p.Partition, q.Partition))
}

var name = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckName says whether s may name a region, node or role: 1 to 63 lower
// case letters, digits and inner hyphens (the label of RFC 1123), so that it
// is usable in DNS names, certificates, metrics labels and file names.
func CheckName(kind, s string) error {
	if !name.MatchString(s) {
		return fmt.Errorf("%s %q: want 1 to 63 of a-z, 0-9 and inner hyphens, such as %q", kind, s, "us-east-1")
	}
	return nil
}
