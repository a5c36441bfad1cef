package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/recovery"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// salvager reads and replays what was salvaged. A *recovery.Host is one.
type salvager interface {
	Orphans(ctx context.Context, region topology.Region, identity func() (string, error)) (recovery.Orphans, error)
	Replay(ctx context.Context, to topology.Region, from recovery.Orphans, p backup.SalvagePart, first int64) (done, next int64, err error)
}

func mirrorOrphans(a *app) *cobra.Command {
	return group("orphans", "Records that a region accepted and that were never mirrored from it", orphansList(a), orphansExport(a), orphansReplay(a))
}

func orphansList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "What was salvaged from regions that came back",
		Long: `Lists the salvages that the log knows, newest first, and the ranges in which an
offset names one record in one region and another one in the other. A salvage is
sealed, and encrypted where the region has a repository with a recipient.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			r, err := client.MirrorOrphans(c.Context())
			if err != nil {
				return err
			}
			return a.show(r, func() string { return renderOrphans(r) })
		},
	}
}

// renderOrphans lists salvages, and where the logs differ for good.
func renderOrphans(r httpapi.OrphansReport) string {
	var p page
	if len(r.Salvages) == 0 {
		p.line("Nothing was salvaged: no region ever came back with records of its own.")
	}
	for i, s := range r.Salvages {
		if i > 0 {
			p.line("")
		}
		p.line("%s, of %s at epoch %d: %s in %s, sealed %s", s.ID, linkName(s.Link), s.Epoch, some(int(s.Records), "record"), size(s.Bytes), when(s.At, r.At))
		p.line("  in %s", s.Where)
		rows := [][]string{{"  PARTITION", "OFFSETS", "PRODUCED AGAIN"}}
		for _, at := range spansOf(s.Orphans) {
			again := "-"
			for _, done := range s.Replays {
				if done.Topic == at.Topic && done.Partition == at.Partition.Partition {
					again = fmt.Sprintf("%s in %s, by %s", when(done.At, r.At), done.To, done.By)
				}
			}
			rows = append(rows, []string{"  " + at.Partition.String(), at.text, again})
		}
		p.table(rows)
	}
	for _, l := range r.Links {
		for _, at := range spansOf(l.Foreign) {
			p.line("")
			p.line("%s: %s names other records in each region at %s.", linkName(l.ID), at.Partition, at.text)
		}
		for topic, ps := range l.Accepted {
			for n, list := range ps {
				for _, gone := range list {
					p.line("")
					p.line("%s: %s/%d [%d,%d) was given up %s by %s: %s", linkName(l.ID), topic, n, gone.From, gone.To, when(gone.At, r.At), gone.By, gone.Reason)
				}
			}
		}
	}
	return p.String()
}

// spanText is the ranges of one partition, in words.
type spanText struct {
	topology.Partition
	text string
}

func spansOf(s consensus.Spans) []spanText {
	var out []spanText
	for _, topic := range inOrder(s) {
		for _, n := range inOrder(s[topic]) {
			var parts []string
			for _, span := range s[topic][n] {
				parts = append(parts, fmt.Sprintf("[%d,%d)", span.From, span.To))
			}
			out = append(out, spanText{topology.Partition{Topic: topic, Partition: n}, strings.Join(parts, " ")})
		}
	}
	return out
}

// orphanFlags say which records of a salvage are meant.
type orphanFlags struct {
	where
	identity  string
	topic     string
	partition int32
}

func (o *orphanFlags) flags(c *cobra.Command) {
	o.where.flags(c.Flags())
	f := c.Flags()
	f.StringVar(&o.identity, "identity", "", "`file` with the age identity that decrypts (default: drill.identity)")
	f.StringVar(&o.topic, "topic", "", "only this `topic`")
	f.Int32Var(&o.partition, "partition", -1, "only the partition with this `number`, with --topic")
}

func inOrder[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// opened is a salvage whose seal was read and verified.
type opened struct {
	from  recovery.Orphans
	salve salvager
	seal  backup.Salvage
	parts []backup.SalvagePart // that were asked for
}

// openSalvage finds a salvage by its id, or the start of it.
func (a *app) openSalvage(c *cobra.Command, o orphanFlags, id string) (*opened, error) {
	if o.partition >= 0 && o.topic == "" {
		return nil, usagef(c, "--partition is one of a topic: say --topic too")
	}
	fleet, host, err := a.salvager(c, &o.where)
	if err != nil {
		return nil, err
	}
	regions := fleet.RegionNames()
	if o.region != "" {
		regions = []topology.Region{topology.Region(o.region)}
	}
	var unread error
	for _, region := range regions {
		from, err := host.Orphans(c.Context(), region, identity(fleet, o.identity))
		if err != nil {
			unread = errors.Join(unread, err)
			continue
		}
		keys, err := from.Salvages(c.Context())
		for _, key := range keys {
			if name := key[strings.LastIndex(key, "/")+1:]; !strings.HasPrefix(name, strings.ToUpper(id)) {
				continue
			}
			seal, _, err := from.ReadSalvage(c.Context(), key)
			if err != nil {
				from.Close()
				return nil, err
			}
			out := &opened{from: from, salve: host, seal: seal}
			for _, p := range seal.Parts {
				if (o.topic == "" || p.Topic == o.topic) && (o.partition < 0 || p.Partition == o.partition) {
					out.parts = append(out.parts, p)
				}
			}
			if len(out.parts) == 0 {
				from.Close()
				return nil, usagef(c, "salvage %s has nothing of %s", seal.ID, o.topic)
			}
			return out, nil
		}
		from.Close()
		unread = errors.Join(unread, err)
	}
	if unread != nil {
		return nil, fmt.Errorf("find salvage %s: %w", id, unread)
	}
	return nil, usage{fmt.Sprintf("no salvage %s in %s: `holdfast mirror orphans list` shows them", id, words(regions))}
}

func orphansExport(a *app) *cobra.Command {
	var o orphanFlags
	var out string
	var raw bool
	c := &cobra.Command{
		Use:   "export SALVAGE",
		Short: "Write salvaged records as JSON lines, or as stored",
		Long: `Reads a salvage, verifies its seal and every object, decrypts it, and writes one
JSON object a line: topic, partition, offset, timestamp in milliseconds, key, value
and headers in base64, and aborted where the record's transaction was. --raw
writes the record batches as the broker stored them instead. It needs no daemon.
A region without a repository keeps its salvages on its node: ask there.

  holdfast mirror orphans export 01KJN9Z --topic events --out events.jsonl`,
		Args: wants(1, 1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			s, err := a.openSalvage(c, o, args[0])
			if err != nil {
				return a.damage(err)
			}
			defer s.from.Close()
			to := a.out
			if out != "" {
				f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
				if err != nil {
					return err
				}
				defer func() { err = errors.Join(err, f.Sync(), f.Close()) }()
				to = f
			}
			return a.damage(s.export(c.Context(), to, raw))
		},
	}
	o.flags(c)
	c.Flags().StringVar(&out, "out", "", "`file` to write, which must not be there (default: standard output)")
	c.Flags().BoolVar(&raw, "raw", false, "write record batches as stored")
	return c
}

func (s *opened) export(ctx context.Context, to io.Writer, raw bool) error {
	w := bufio.NewWriterSize(to, 1<<20)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for _, p := range s.parts {
		var err error
		if raw {
			err = s.from.Batches(ctx, p, func(b []byte) error { _, err := w.Write(b); return err })
		} else {
			err = s.from.Each(ctx, p, func(r recovery.Orphan) error { return enc.Encode(r) })
		}
		if err != nil {
			return errors.Join(err, w.Flush())
		}
	}
	return w.Flush()
}

// replayed is the result of orphans replay.
type replayed struct {
	Salvage string         `json:"salvage"`
	To      string         `json:"to"`
	DryRun  bool           `json:"dry_run,omitempty"`
	Parts   []replayedPart `json:"parts"`
}

type replayedPart struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Records   int64  `json:"records"` // to produce; without --yes nothing was
	Produced  int64  `json:"produced"`
}

func orphansReplay(a *app) *cobra.Command {
	var o orphanFlags
	var to string
	var from int64
	var yes, again bool
	c := &cobra.Command{
		Use:   "replay SALVAGE --to REGION",
		Short: "Produce salvaged records again, as new records of the active region",
		Long: `Without --yes it says what it would do. With it, the records of a salvage are
produced again to the same topics and partitions of the region that holds
ingestion, at its end, in their order and with their timestamps: new records, with
new offsets. Aborted ones are left out. Each partition is recorded in the log
before its first record is produced, and refused a second time unless --again says
so. One that was cut off says where to go on: --topic T --partition N --from OFFSET
--again.`,
		Args: wants(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case to == "":
				return usagef(c, "say where to: --to REGION")
			case from > 0 && (o.topic == "" || o.partition < 0):
				return usagef(c, "--from is an offset of one partition: say --topic and --partition too")
			}
			s, err := a.openSalvage(c, o, args[0])
			if err != nil {
				return a.damage(err)
			}
			defer s.from.Close()
			r := replayed{Salvage: s.seal.ID, To: to, DryRun: !yes}
			err = a.replay(c.Context(), s, &r, from, again)
			if shown := a.show(r, func() string { return renderReplayed(r) }); err == nil {
				err = shown
			}
			return a.damage(err)
		},
	}
	o.flags(c)
	c.Flags().StringVar(&to, "to", "", "`region` that holds ingestion")
	c.Flags().Int64Var(&from, "from", 0, "first `offset` of the salvage that is produced")
	c.Flags().BoolVar(&yes, "yes", false, "produce them")
	c.Flags().BoolVar(&again, "again", false, "also where the log says that it was done before")
	return c
}

// replay counts the records of each part, and unless it is a dry run produces
// them.
func (a *app) replay(ctx context.Context, s *opened, r *replayed, from int64, again bool) error {
	for _, p := range s.parts {
		records := int64(0)
		err := s.from.Each(ctx, p, func(o recovery.Orphan) error {
			if o.Offset >= from && !o.Aborted {
				records++
			}
			return nil
		})
		if err != nil {
			return err
		}
		r.Parts = append(r.Parts, replayedPart{Topic: p.Topic, Partition: p.Partition, Records: records})
	}
	if r.DryRun {
		return nil
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	for i, p := range s.parts {
		if r.Parts[i].Records == 0 {
			continue
		}
		err := client.NoteReplay(ctx, httpapi.ReplayOrphans{
			Salvage: consensus.SalvageID(s.seal.ID), Topic: p.Topic, Partition: p.Partition, To: topology.Region(r.To), Records: r.Parts[i].Records, Again: again,
		})
		if err != nil {
			return err
		}
		done, next, err := s.salve.Replay(ctx, topology.Region(r.To), s.from, p, from)
		if r.Parts[i].Produced = done; err != nil {
			return fmt.Errorf("%w; %d were produced, go on with: --topic %s --partition %d --from %d --again", err, done, p.Topic, p.Partition, next)
		}
	}
	return nil
}

func renderReplayed(r replayed) string {
	var p page
	rows := [][]string{{"PARTITION", "RECORDS", "PRODUCED"}}
	total, done := int64(0), int64(0)
	for _, part := range r.Parts {
		total, done = total+part.Records, done+part.Produced
		rows = append(rows, []string{fmt.Sprintf("%s/%d", part.Topic, part.Partition), fmt.Sprint(part.Records), fmt.Sprint(part.Produced)})
	}
	if r.DryRun {
		p.line("Would produce %s of salvage %s as new records in %s. Nothing was produced: --yes does it.", some(int(min(total, math.MaxInt)), "record"), r.Salvage, r.To)
	} else {
		p.line("Produced %d of %s of salvage %s as new records in %s.", done, some(int(min(total, math.MaxInt)), "record"), r.Salvage, r.To)
	}
	p.line("")
	p.table(rows)
	return p.String()
}
