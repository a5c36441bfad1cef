package backup

import (
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Manifest describes what one engine took for one set, and where every byte of
// it is. It holds no secret: it is not encrypted, so that a writer without a
// private key can reuse what is there.
type Manifest struct {
	Format   int             `json:"format"`
	Engine   Engine          `json:"engine"`
	Set      SetID           `json:"set"`
	Attempt  string          `json:"attempt"`
	Cluster  string          `json:"cluster"`
	Region   topology.Region `json:"region"`
	Store    Store           `json:"store"`
	Started  time.Time       `json:"started"`
	Finished time.Time       `json:"finished"`
	Totals   Totals          `json:"totals"`

	Blobs  []Blob  `json:"blobs,omitempty"`
	Pieces []Piece `json:"pieces,omitempty"`
	Packs  []Pack  `json:"packs,omitempty"`

	// One of these, by Engine.
	Kafka      *KafkaPart      `json:"kafka,omitempty"`
	ClickHouse *ClickHousePart `json:"clickhouse,omitempty"`
	Postgres   *PostgresPart   `json:"postgres,omitempty"`

	// Notes say what a restore of this part will not bring back, and why.
	Notes []string `json:"notes,omitempty"`
}

// Store says which server this was taken from.
type Store struct {
	Version string `json:"version"`
	ID      string `json:"id"` // Kafka's cluster id, Postgres' system identifier, ClickHouse's server UUID or host name
}

// Blob is an object of ours: pieces one after the other, compressed as a
// whole (zstd), then encrypted (age).
type Blob struct {
	Key    string `json:"key"`
	SHA256 Digest `json:"sha256"` // of the stored bytes
	Stored int64  `json:"stored"` // bytes in the store
	Size   int64  `json:"size"`   // bytes of plain text
}

// Piece is a run of bytes that is stored once however often it is taken. Its
// id is the HMAC-SHA256 of its plain text under a key made from the
// repository's dedupe key and the recipient, so that no name confirms a guess,
// and nothing is reused that another private key is needed for.
type Piece struct {
	ID   string `json:"id"`   // hexadecimal
	Blob int    `json:"blob"` // index into Manifest.Blobs
	At   int64  `json:"at"`   // offset in the plain text of the blob
	Size int64  `json:"size"`
}

// Pack is a folder that a server wrote by itself, such as a native ClickHouse
// backup. We hashed every object of it after it was made; the hashes are in
// its index, an object beside it that is written once.
type Pack struct {
	ID      string    `json:"id"` // ULID; the objects are below PackPrefix
	Index   string    `json:"index"`
	SHA256  Digest    `json:"sha256"` // of the index
	Objects int       `json:"objects"`
	Bytes   int64     `json:"bytes"` // of its objects
	Made    time.Time `json:"made"`
	// Encryption of the objects: "none", or what the server does by itself.
	Encryption string `json:"encryption"`
}

// PackIndex is the object that Pack.Index names.
type PackIndex struct {
	Format  int          `json:"format"`
	Pack    string       `json:"pack"`
	Engine  Engine       `json:"engine"`
	Set     SetID        `json:"set"` // that the pack was made for; others may refer to it
	Attempt string       `json:"attempt"`
	Objects []PackObject `json:"objects"` // ordered by name
}

// PackObject is one object of a pack.
type PackObject struct {
	Name   string `json:"name"` // below the pack's prefix
	Bytes  int64  `json:"bytes"`
	SHA256 Digest `json:"sha256"`
}

// KafkaPart holds where every consumer group stood, and what the topics held.
type KafkaPart struct {
	Topics []KafkaTopic `json:"topics"`
	Groups []KafkaGroup `json:"groups"`
}

// KafkaTopic is one topic and the range of its log.
type KafkaTopic struct {
	Name       string           `json:"name"`
	ID         string           `json:"id,omitempty"` // hexadecimal
	Partitions []KafkaPartition `json:"partitions"`
}

// KafkaPartition is the range of one log: Start is the first offset that is
// there, End the one that the next record gets.
type KafkaPartition struct {
	Partition int32 `json:"partition"`
	Start     int64 `json:"start"`
	End       int64 `json:"end"`
}

// KafkaGroup is a consumer group with all that it has committed.
type KafkaGroup struct {
	Name    string        `json:"name"`
	State   string        `json:"state"`
	Offsets []KafkaOffset `json:"offsets"`
}

// KafkaOffset is one committed offset: the next record that the group reads.
type KafkaOffset struct {
	Topic       string `json:"topic"`
	Partition   int32  `json:"partition"`
	Offset      int64  `json:"offset"`
	LeaderEpoch int32  `json:"leader_epoch"` // -1: none
	Metadata    string `json:"metadata,omitempty"`
}

// ClickHousePart holds the tables of the databases that were taken.
type ClickHousePart struct {
	Tables []ClickHouseTable `json:"tables"` // ordered by database and name
}

// ClickHouseTable is one table, view or dictionary.
type ClickHouseTable struct {
	Database string             `json:"database"`
	Name     string             `json:"name"`
	Engine   string             `json:"engine"`
	Create   string             `json:"create"` // system.tables.create_table_query
	Columns  []ClickHouseColumn `json:"columns,omitempty"`
	// Partitions of a table that holds data of its own (the MergeTree
	// family); nil for all others, of which only the definition is taken.
	Partitions []ClickHousePartition `json:"partitions,omitempty"`
}

// ClickHouseColumn is one column; Kind is "", DEFAULT, MATERIALIZED, ALIAS or EPHEMERAL.
type ClickHouseColumn struct {
	Name string `json:"name"`
	Type string `json:"type"`
	Kind string `json:"kind,omitempty"`
}

// ClickHousePartition is one partition, whole, in one pack.
type ClickHousePartition struct {
	ID    string   `json:"id"`
	Pack  int      `json:"pack"`  // index into Manifest.Packs
	Parts []string `json:"parts"` // names of the data parts in the pack
	// Fingerprint tells whether the partition changed since: a hash of its
	// parts' content hashes and of the table's definition. Empty: not known,
	// so it is taken again next time.
	Fingerprint string `json:"fingerprint,omitempty"`
	Rows        uint64 `json:"rows"`
	// RowHash is a sum over all rows of a hash that sees NULLs and
	// MATERIALIZED columns, in decimal. Two partitions with equal Rows and
	// RowHash hold the same rows, in whatever order.
	RowHash string `json:"row_hash"`
	Bytes   uint64 `json:"bytes"` // on the server's disk
}

// PostgresPart is a base backup with the WAL that makes it consistent.
type PostgresPart struct {
	SystemID string `json:"system_id"`
	Timeline uint32 `json:"timeline"`
	StartLSN string `json:"start_lsn"`
	EndLSN   string `json:"end_lsn"`
	// Superuser is a role that may do everything in a restored cluster; its
	// name is not always postgres. Empty: not known.
	Superuser string `json:"superuser,omitempty"`

	Files  []PostgresFile  `json:"files"`
	Dirs   []PostgresDir   `json:"dirs"`
	Census []PostgresTable `json:"census"` // ordered by database, schema and name
}

// PostgresFile is one file of the data directory. It consists of the pieces
// named, one after the other.
type PostgresFile struct {
	Name   string `json:"name"` // below the data directory, with slashes
	Mode   uint32 `json:"mode"` // permission bits
	Bytes  int64  `json:"bytes"`
	SHA256 Digest `json:"sha256"`
	Pieces []int  `json:"pieces,omitempty"` // indexes into Manifest.Pieces
}

// PostgresDir is one directory of the data directory.
type PostgresDir struct {
	Name string `json:"name"`
	Mode uint32 `json:"mode"`
}

// PostgresTable is what was counted in one table.
type PostgresTable struct {
	Database string `json:"database"`
	Schema   string `json:"schema"`
	Name     string `json:"name"`
	Rows     uint64 `json:"rows"`
	// RowHash is a sum over a hash of each row, in decimal; see ClickHousePartition.
	RowHash string `json:"row_hash,omitempty"`
	// Moving is set when the table changed while the backup ran: Rows and
	// RowHash are then those at its end, and a restore may differ from them.
	Moving bool `json:"moving,omitempty"`
	// Skipped says why the table was not counted; empty when it was.
	Skipped string `json:"skipped,omitempty"`
}
