package recovery

import (
	"context"
	"log/slog"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

// Options say whose stores to reach, and as whom.
type Options struct {
	Fleet *config.Fleet
	// Node is the node of this host: its dial map and its certificate
	// authorities are used. Empty: none of the fleet's; then CAFile is needed.
	Node   topology.Node
	CAFile string // certificates that seals are verified with; default: the node's tls.ca
	// Identity signs seals and reports; nil: only reading is possible.
	Identity *certs.Identity
	Version  string // of holdfast, as in the seal
	Log      *slog.Logger
}

// Archive is a vault with the reports of its drills.
type Archive interface {
	restore.Vault
	// Reports lists the drills of a set, newest first.
	Reports(ctx context.Context, set backup.SetID) ([]string, error)
	// Report reads one drill's report and verifies its signature.
	Report(ctx context.Context, set backup.SetID, run string) (restore.Report, error)
}

// TargetOptions say where the parts of a set are to be restored to. An engine
// without a place is left out.
type TargetOptions struct {
	Run string          // id of this restore or drill: what is made carries it
	Of  topology.Region // whose repository the set is in
	// ClickHouseDatabase is the database to make on the target server: the
	// drill's (drill.target.clickhouse), or with ClickHouseRegion that
	// region's own.
	ClickHouseDatabase string
	ClickHouseRegion   topology.Region
	// ClickHouseCollection is the named collection on that server that leads
	// to the repository; default: as configured.
	ClickHouseCollection string
	// PostgresDirectory is the directory to make the data directory in.
	PostgresDirectory string
	PostgresBin       string // of the server's programs; default: the drill's
	PostgresUser      string // to run as when we are root; default: the drill's
	// Drill: what is made is swept away after a crash, and the server that a
	// set was taken from is refused as its target.
	Drill bool
}

// Starter is a target whose restored server can be left running.
type Starter interface {
	restore.Target
	// Start starts the restored server and returns how to connect to it.
	Start(ctx context.Context) (connect string, err error)
}

// Commander is a target whose restored server a person can start.
type Commander interface {
	restore.Target
	Command() string // for the owner of the place, as one shell line
}

// Keeper is a target that can be handed over to the person who asked for it.
type Keeper interface {
	restore.Target
	// Keep ends what protects the place during a comparison (merges are
	// stopped) and returns what the person should know about it, one line each.
	Keep(ctx context.Context) (notes []string, err error)
}
