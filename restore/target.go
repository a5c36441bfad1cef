package restore

import (
	"context"

	"github.com/holdfast-dr/holdfast/backup"
)

// Target is a scratch place for one engine: something of its own, with a name
// of its own, that nothing else uses.
type Target interface {
	Engine() backup.Engine
	// Where names the place as a person would look for it: "database
	// holdfast_drill_01J… on 10.0.0.7:9000", "/var/lib/holdfast/drill/01J…".
	Where() string
	// Check looks whether Restore could work: reach, rights, version, space,
	// and that the place is empty. It changes nothing. A nil error with no
	// obstacle means go.
	Check(ctx context.Context, m *backup.Manifest) ([]Obstacle, error)
	// Restore makes the place and fills it. It refuses a place that exists and
	// was not made by an earlier call for the same run. What native reads the
	// server does by itself were verified by the caller before.
	Restore(ctx context.Context, m *backup.Manifest, src backup.Source, progress func(backup.Progress)) error
	// Compare reads everything in the place once and compares structure,
	// counts and content with the manifest.
	Compare(ctx context.Context, m *backup.Manifest, progress func(backup.Progress)) (Comparison, error)
	// Disturb changes one row in the place and says which. It is for the
	// negative control of a drill, right before Remove.
	Disturb(ctx context.Context, m *backup.Manifest) (what string, err error)
	// Remove takes the place away, whole, also one that is half made by a
	// process that is gone. It removes nothing that was not made by a Restore
	// of the same run, may be called twice, and is given a fresh context.
	Remove(ctx context.Context) error
}

// Obstacle is a reason not to begin.
type Obstacle struct {
	What string `json:"what"` // one sentence
	Next string `json:"next"` // what to do about it
}

// Comparison is what Compare found.
type Comparison struct {
	Tables int    `json:"tables"`
	Units  int    `json:"units"` // partitions or tables whose rows were compared
	Rows   uint64 `json:"rows"`  // that were read
	// Differences are the first ones, at most DifferencesMax; Different counts all.
	Differences []Difference `json:"differences,omitempty"`
	Different   int          `json:"different"`
	// Notes say what was not compared, and why.
	Notes []string `json:"notes,omitempty"`
}

// DifferencesMax bounds what a report carries.
const DifferencesMax = 50

// Difference is one thing that is not as the manifest says.
type Difference struct {
	Where string `json:"where"` // "errors_local, partition 90-20260817"
	What  string `json:"what"`  // "1999 rows, the manifest says 2000"
}

// Add notes a difference, within the bound.
func (c *Comparison) Add(where, what string) {
	c.Different++
	if len(c.Differences) < DifferencesMax {
		c.Differences = append(c.Differences, Difference{where, what})
	}
}

// Vault is a repository as restores and drills read it. An error about what
// the store holds wraps ErrDamaged and names the key of the object; all other
// errors are about the way there.
type Vault interface {
	backup.Source
	// Sets lists what is sealed, newest first. The list is whole or an error.
	Sets(ctx context.Context) ([]backup.SetID, error)
	// Seal reads a seal and verifies its signature and that it is the one of
	// this set and cluster. The digest is of the object as stored.
	Seal(ctx context.Context, set backup.SetID) (backup.Seal, backup.Digest, error)
	// Manifest reads a manifest and compares it with the hash in the seal.
	Manifest(ctx context.Context, set backup.SetID, p backup.Part) (backup.Manifest, error)
	// Verify looks at every object that the manifest needs: whether it is
	// there with the right size and, with readData, whether every byte is
	// right. It finds all it can and returns an error only when it could not
	// look. No private key is needed.
	Verify(ctx context.Context, m *backup.Manifest, readData bool, progress func(backup.Progress)) (Verification, error)
	// Corrupted returns a view of this vault in which one byte of the object
	// with this key is wrong, for the negative control. Nothing is written.
	Corrupted(key string) Vault
	// PutReport stores a drill's report beside its set, signed, and its page.
	PutReport(ctx context.Context, r Report, page []byte) (backup.Digest, error)
	// Name is the vault as a person knows it: "s3://bucket/prefix of us-east".
	Name() string
}

// Verification is what Verify found.
type Verification struct {
	Objects  int       `json:"objects"` // looked at
	Bytes    int64     `json:"bytes"`   // read
	Findings []Finding `json:"findings,omitempty"`
	// Broken counts all findings; Findings holds the first ones.
	Broken int `json:"broken"`
}

// Finding is one object that is not what the set needs.
type Finding struct {
	Object string `json:"object"` // its key
	What   string `json:"what"`   // "missing", "is 12 bytes long, want 20", "its SHA-256 is …, want …"
	Hurts  string `json:"hurts"`  // what cannot be restored without it, as far as known
}

// Find notes a finding, within the bound.
func (v *Verification) Find(f Finding) {
	v.Broken++
	if len(v.Findings) < DifferencesMax {
		v.Findings = append(v.Findings, f)
	}
}

// Add joins what two looks found.
func (v Verification) Add(o Verification) Verification {
	v.Objects, v.Bytes = v.Objects+o.Objects, v.Bytes+o.Bytes
	broken := v.Broken + o.Broken
	for _, f := range o.Findings {
		v.Find(f)
	}
	v.Broken = broken
	return v
}
