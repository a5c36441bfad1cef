package backup

import (
	"context"
	"time"
)

// PieceBytesMax bounds one piece. Files are cut at multiples of it, so that an
// unchanged stretch of a file is not sent twice.
const PieceBytesMax = 1 << 20

// Taker is an engine: it takes its share of a set from one store.
type Taker interface {
	Engine() Engine
	// Take reads the store and hands what has to be kept to the sink. It
	// returns a manifest whose Store, Notes, Totals.Rows and own part are
	// filled; the caller adds blobs, pieces, packs and the other figures from
	// the sink. It may be called again after any end of an earlier call: each
	// call writes under names of its own.
	Take(ctx context.Context, in Take) (Manifest, error)
}

// Take is what an engine is given.
type Take struct {
	Set     SetID
	Attempt string // ULID of this attempt
	// Prev is the manifest of this engine in the newest sealed set of this
	// repository; nil: there is none.
	Prev *Manifest
	Sink Sink
	// Progress may be called at any rate, from one goroutine at a time.
	Progress func(Progress)
}

// Progress is how far a piece of work is. Total is 0 while it is not known.
type Progress struct {
	Stage string `json:"stage"` // a few words: "clickhouse: hash 120 objects"
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
	Unit  string `json:"unit"` // "bytes", "rows", "files"
}

// Sink is where an engine puts what it takes. Put may be called concurrently;
// the rest by one goroutine.
type Sink interface {
	// Put keeps data, 1 byte to PieceBytesMax, unless it is there already, and
	// returns its index in Manifest.Pieces. Small pieces are gathered into one
	// blob. It keeps no reference to data, and may still send it after it has
	// returned. An error, also of an earlier piece, is final.
	Put(ctx context.Context, data []byte) (piece int, err error)
	// NewPack names a folder for a server to write to. The name has never
	// been used and will not be used again.
	NewPack() PackPlace
	// ReadPack reads one object of a pack that is being made, up to max bytes.
	ReadPack(ctx context.Context, at PackPlace, name string, max int64) ([]byte, error)
	// Adopt reads and hashes every object that the folder must hold, and
	// writes the index. An object that is missing, or that is there and not
	// named, is an error. Bytes may be -1 where the engine does not know it; SHA256 is filled in here. It
	// returns the index of the pack in Manifest.Packs.
	Adopt(ctx context.Context, at PackPlace, objects []PackObject, progress func(Progress)) (pack int, err error)
	// Reuse refers to a pack of an earlier set and returns its index in Manifest.Packs.
	Reuse(p Pack) (pack int)
}

// PackPlace is where a pack is being made.
type PackPlace struct {
	ID     string
	Prefix string // key prefix below the repository's root, with a slash at its end
}

// Source gives back what a Sink took, for a restore. It is safe for
// concurrent use.
type Source interface {
	// Pieces calls each with the plain text of the pieces named, in the order
	// given, from one goroutine; data is only valid during the call. Every
	// blob is compared with its hash before it is decrypted. An error of each
	// ends it. It never returns nil before each was called for all.
	Pieces(ctx context.Context, m *Manifest, pieces []int, each func(data []byte) error) error
	// PackIndex reads the index of a pack and compares it with its hash.
	PackIndex(ctx context.Context, p Pack) (PackIndex, error)
}

// Age is how long ago a set was sealed.
func (s Seal) Age(now time.Time) time.Duration { return now.Sub(s.Sealed) }
