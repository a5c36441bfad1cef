package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

// drillsShown bounds the drills of a set that are read.
const drillsShown = 10

func backupShow(a *app) *cobra.Command {
	var w where
	var offsets bool
	c := &cobra.Command{
		Use:   "show SET|latest",
		Short: "Show what is in a recovery set, what a restore will not bring back, and its drills",
		Long: `Reads the seal and the manifests of a set from its repository, verifies them, and
shows what was counted per table, without a daemon and without the private key. An
id may be shortened as long as it is unique; latest is the newest set.

  holdfast backup show latest
  holdfast backup show 01KJN9Z --offsets
  holdfast backup show latest --region us-east --json

--offsets lists where every consumer group stood. --json prints every partition
and offset. It ends with 5 when the seal or a manifest is not what was written.`,
		Args: wants(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			d, err := a.depot(c, w)
			if err != nil {
				return err
			}
			f, err := d.find(c.Context(), a, args[0], nil)
			if err != nil {
				return err
			}
			s, err := a.showSet(c.Context(), f)
			if err != nil {
				return a.damage(err)
			}
			return a.show(s, func() string { return renderSet(s, offsets) })
		},
	}
	w.flags(c.Flags())
	c.Flags().BoolVar(&offsets, "offsets", false, "list the committed offsets of every group")
	return c
}

// damage shows an error about a set itself: that one was found is the result.
func (a *app) damage(err error) error {
	if !errors.Is(err, restore.ErrDamaged) {
		return err
	}
	a.finish(err)
	return ended{exitFindings}
}

// setShown is the result of backup show.
type setShown struct {
	At        time.Time       `json:"at"`
	Vault     string          `json:"vault"`
	Seal      backup.Seal     `json:"seal"`
	Digest    backup.Digest   `json:"digest"`
	Logged    bool            `json:"logged"` // and the log has the same digest
	Log       bool            `json:"log"`    // the daemon answered
	Parts     []partShown     `json:"parts"`
	Drills    []drillShown    `json:"drills"`
	DrillsWhy string          `json:"drills_unread,omitempty"` // why drills could not be read
	Region    topology.Region `json:"region"`                  // of the repository
}

// partShown is one engine's share.
type partShown struct {
	Engine backup.Engine `json:"engine"`
	Store  backup.Store  `json:"store"`
	Totals backup.Totals `json:"totals"`
	// Tables is empty for kafka, Kafka for all others.
	Tables   []tableShown      `json:"tables,omitempty"`
	Kafka    *backup.KafkaPart `json:"kafka,omitempty"`
	Packs    int               `json:"packs,omitempty"`
	Postgres *postgresShown    `json:"postgres,omitempty"`
	Notes    []string          `json:"notes,omitempty"`
}

// postgresShown says which server, and how far its log goes.
type postgresShown struct {
	SystemID string `json:"system_id"`
	Timeline uint32 `json:"timeline"`
	StartLSN string `json:"start_lsn"`
	EndLSN   string `json:"end_lsn"`
	Files    int    `json:"files"`
}

// tableShown is what was counted in one table.
type tableShown struct {
	Name       string                       `json:"name"`
	Rows       uint64                       `json:"rows"`
	Bytes      uint64                       `json:"bytes,omitempty"` // on the server's disk
	Partitions []backup.ClickHousePartition `json:"partitions,omitempty"`
	Note       string                       `json:"note,omitempty"`
}

// drillShown is one drill of the set.
type drillShown struct {
	Run    string         `json:"run"`
	Report restore.Report `json:"report"`
}

func (a *app) showSet(ctx context.Context, f found) (setShown, error) {
	book := a.logbook(ctx)
	l, err := restore.Load(ctx, f.archive, f.set, book.digest(f.set))
	if err != nil {
		return setShown{}, err
	}
	s := setShown{At: a.now().UTC(), Vault: f.archive.Name(), Region: f.region, Seal: l.Seal, Digest: l.Digest, Logged: book.digest(f.set) != "", Log: book.answered, Drills: []drillShown{}}
	for _, p := range l.Seal.Parts {
		s.Parts = append(s.Parts, partOf(l.Manifests[p.Engine], p.Totals))
	}
	s.Drills, err = f.drills(ctx, drillsShown)
	if err != nil {
		s.DrillsWhy = err.Error()
	}
	return s, nil
}

// drills reads the newest reports of a set.
func (f found) drills(ctx context.Context, most int) ([]drillShown, error) {
	out := []drillShown{}
	runs, err := f.archive.Reports(ctx, f.set)
	if err != nil {
		return out, fmt.Errorf("list the drills of set %s: %w", f.set, err)
	}
	for _, run := range runs[:min(most, len(runs))] {
		r, err := f.archive.Report(ctx, f.set, run)
		if err != nil {
			return out, fmt.Errorf("read the report of drill %s: %w", run, err)
		}
		out = append(out, drillShown{run, r})
	}
	return out, nil
}

func partOf(m *backup.Manifest, t backup.Totals) partShown {
	p := partShown{Engine: m.Engine, Store: m.Store, Totals: t, Packs: len(m.Packs), Kafka: m.Kafka, Notes: m.Notes}
	if m.ClickHouse != nil {
		for _, table := range m.ClickHouse.Tables {
			out := tableShown{Name: table.Database + "." + table.Name, Partitions: table.Partitions}
			for _, part := range table.Partitions {
				out.Rows, out.Bytes = out.Rows+part.Rows, out.Bytes+part.Bytes
			}
			if table.Partitions == nil {
				out.Note = "definition only, " + table.Engine
			}
			p.Tables = append(p.Tables, out)
		}
	}
	if pg := m.Postgres; pg != nil {
		p.Postgres = &postgresShown{SystemID: pg.SystemID, Timeline: pg.Timeline, StartLSN: pg.StartLSN, EndLSN: pg.EndLSN, Files: len(pg.Files)}
		for _, table := range pg.Census {
			out := tableShown{Name: table.Database + "." + table.Schema + "." + table.Name, Rows: table.Rows}
			switch {
			case table.Skipped != "":
				out.Note = "not counted: " + table.Skipped
			case table.Moving:
				out.Note = "was written to meanwhile"
			}
			p.Tables = append(p.Tables, out)
		}
	}
	return p
}
