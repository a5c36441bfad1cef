package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

func mirrorVerify(a *app) *cobra.Command {
	var want httpapi.StartVerify
	var region, sample, rate string
	var last, detach, every bool
	c := &cobra.Command{
		Use:   "verify",
		Short: "Compare what both regions hold, record by record, and say through which offset it is identical",
		Long: `Reads each mirrored partition at both ends, decodes it as any consumer would, and
compares offset, time, key, value and headers of each record: the committed ones of
the source with all that the target shows, in the range that both still hold. The
daemon of the target does it, and signs a statement about each partition.

  holdfast mirror verify
  holdfast mirror verify --topic events --topic outcomes --rate 50MB
  holdfast mirror verify --sample 5% --fast
  holdfast mirror verify --new
  holdfast mirror verify --last --json

A time that the target's broker sets (LogAppendTime) is not compared. Records of a
compacted topic that one log cleaner took and the other did not are no difference;
the newest value of each key must be the same. Nothing is said about what is above
the range, and about what one end has already deleted. A sample finds a difference
only where it looks.

It ends with 5 when something differs or could not be compared, and with 3 when a
comparison is under way.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			want.Region = topology.Region(region)
			if want.Sample, err = shareOf(sample); err != nil {
				return usagef(c, "--sample %s: %s", sample, err)
			}
			if want.Rate, err = rateOf(rate); err != nil {
				return usagef(c, "--rate %s: %s", rate, err)
			}
			if last && (detach || want.Fast || want.New || rate != "" || c.Flags().Changed("sample")) {
				return usagef(c, "--last compares nothing: it goes with --region, --topic and --all only")
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			var e *httpapi.VerifyEvidence
			if !last {
				id, err := client.StartVerify(c.Context(), want)
				if err != nil {
					return err
				}
				if detach {
					return a.show(httpapi.RunStarted{Run: id}, func() string {
						return fmt.Sprintf("Comparison %s has begun: holdfast mirror verify --last\n", id)
					})
				}
				a.say("Comparison %s has begun.", id)
				r, err := a.followRun(c.Context(), client, httpapi.KindVerify, id)
				if err != nil {
					return err
				}
				done, err := evidenceOf[httpapi.VerifyEvidence](r)
				if err != nil {
					return err
				}
				e = &done
			}
			return a.verifiedNow(c.Context(), client, want, e, every)
		},
	}
	f := c.Flags()
	f.StringVar(&region, "region", "", "target `region` (default: the only one)")
	f.StringSliceVar(&want.Topics, "topic", nil, "`topic` to compare, repeatable (default: all that are mirrored)")
	f.StringVar(&sample, "sample", "100%", "`share` of the offsets to read, by chance: 5% or 0.05")
	f.StringVar(&rate, "rate", "", "`bytes` per second to read from the source, such as 50MB (default: mirror.verify.rate_limit)")
	f.BoolVar(&want.Fast, "fast", false, "do not decode batches that both ends store with the same bytes")
	f.BoolVar(&want.New, "new", false, "compare only what came since the last whole comparison")
	f.BoolVar(&last, "last", false, "compare nothing; show what was last said about each partition")
	f.BoolVar(&every, "all", false, "list every partition")
	f.BoolVar(&detach, "detach", false, "return when the comparison has begun")
	c.AddCommand(verifyCancel(a))
	return c
}

// shareOf reads 5% and 0.05.
func shareOf(text string) (float64, error) {
	if v, err := strconv.ParseFloat(text, 64); err == nil && v > 0 && v <= 1 {
		return v, nil
	}
	var s config.Share
	err := s.UnmarshalText([]byte(text))
	return float64(s), err
}

func rateOf(text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	var r config.Rate
	err := r.UnmarshalText([]byte(text))
	return int64(r), err
}

func verifyCancel(a *app) *cobra.Command {
	var why string
	c := &cobra.Command{
		Use:   "cancel RUN",
		Short: "End a live comparison; what it has said so far is kept",
		Args:  wants(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			defer client.Close()
			r, err := client.Run(c.Context(), consensus.RunID(args[0]))
			if err != nil {
				return err
			}
			if r.Run.Kind != httpapi.KindVerify {
				return usagef(c, "run %s is a %s: `holdfast %s cancel` ends it", r.ID, r.Run.Kind, r.Run.Kind)
			}
			if err := client.CancelRun(c.Context(), r.ID, why); err != nil {
				return err
			}
			return a.show(cancelled{r.ID}, func() string { return fmt.Sprintf("Comparison %s is cancelled.\n", r.ID) })
		},
	}
	c.Flags().StringVar(&why, "reason", "cancelled by a person", "`why`, for the audit log")
	return c
}

// compared is the result of mirror verify: the run, when one was made, and the
// signed statements.
type compared struct {
	OK  bool                    `json:"ok"`
	Run *httpapi.VerifyEvidence `json:"run,omitempty"`
	httpapi.Verified
}

// verifiedNow shows the statements about what was asked for.
func (a *app) verifiedNow(ctx context.Context, client *httpapi.Client, want httpapi.StartVerify, e *httpapi.VerifyEvidence, every bool) error {
	if e != nil {
		want.Region = e.Region
	}
	said, err := client.Verified(ctx, want.Region)
	if err != nil {
		return err
	}
	r := compared{OK: true, Run: e, Verified: said}
	if len(want.Topics) > 0 {
		r.Partitions = slices.DeleteFunc(r.Partitions, func(p httpapi.VerifiedPartition) bool { return !slices.Contains(want.Topics, p.Topic) })
	}
	rows, err := verifiedRows(r.Partitions)
	if err != nil {
		return err
	}
	r.OK = !slices.ContainsFunc(rows, func(v verifiedRow) bool { return v.differs != nil }) && (e == nil || e.Failed == 0 && e.Differing == 0)
	if err := a.show(r, func() string { return renderCompared(r, rows, every) }); err != nil {
		return err
	}
	if !r.OK {
		return ended{exitFindings}
	}
	return nil
}

// verifiedRow is what was said about one partition, decoded.
type verifiedRow struct {
	last           replicate.Statement
	whole, differs *replicate.Statement
}

func verifiedRows(all []httpapi.VerifiedPartition) ([]verifiedRow, error) {
	var rows []verifiedRow
	for _, p := range all {
		var row verifiedRow
		var err error
		if row.last, err = p.Last.Decode(); err != nil {
			return nil, fmt.Errorf("read the statement about %s: %w", p.Partition, err)
		}
		for from, into := range map[*httpapi.SignedStatement]**replicate.Statement{p.Whole: &row.whole, p.Differs: &row.differs} {
			if from == nil {
				continue
			}
			s, err := from.Decode()
			if err != nil {
				return nil, fmt.Errorf("read the statement about %s: %w", p.Partition, err)
			}
			*into = &s
		}
		switch last := row.last; {
		case last.Verdict == replicate.Differs:
			row.differs = &last
		case last.Verdict == replicate.Identical && last.Whole():
			row.whole = &last
		}
		rows = append(rows, row)
	}
	return rows, nil
}

const verifiedShown = 40 // partitions, unless every one is asked for

// renderCompared is one line about the run, one per partition, and what differs.
func renderCompared(r compared, rows []verifiedRow, every bool) string {
	var p page
	if r.Run != nil {
		p.comparison(*r.Run)
	}
	if len(rows) == 0 {
		p.line("Nothing has been compared in %s yet: holdfast mirror verify", r.Region)
		return p.String()
	}
	differ, same := 0, 0
	for _, row := range rows {
		if row.differs != nil {
			differ++
		} else if row.last.Verdict == replicate.Identical {
			same++
		}
	}
	if r.Run == nil {
		p.line("%s: %s compared, %s identical, %s", r.Region, some(len(rows), "partition"), count(int64(same)), differing(differ))
	}
	shown := rows
	if !every && len(rows) > verifiedShown {
		shown = slices.DeleteFunc(slices.Clone(rows), func(v verifiedRow) bool { return v.differs == nil })
	}
	if len(shown) > 0 {
		p.line("")
		p.table(statementTable(shown, r.At))
	}
	if n := len(rows) - len(shown); n > 0 {
		p.line("%s not shown: --all lists them", some(n, "identical partition"))
	}
	if all := comparedFindings(r, rows); len(all) > 0 {
		p.line("")
		p.findings(all)
	}
	return p.String()
}

// comparison is the head of a run.
func (p *page) comparison(e httpapi.VerifyEvidence) {
	how := "every record decoded"
	if e.Fast {
		how = "the same stored bytes not decoded"
	}
	what := "all offsets"
	switch {
	case e.Sample > 0 && e.Sample < 1:
		what = "a sample of " + config.Share(e.Sample).String()
		if e.New {
			what += " of what is new"
		}
	case e.New:
		what = "all that is new"
	}
	p.line("%s, epoch %d: %s, %s", linkName(e.Link), e.Epoch, what, how)
	verdicts := []string{count(int64(e.Identical)) + " identical"}
	if e.Differing > 0 {
		verdicts = append(verdicts, differing(e.Differing))
	}
	if e.Failed > 0 {
		verdicts = append(verdicts, count(int64(e.Failed))+" NOT COMPARED")
	}
	if e.Nothing > 0 {
		verdicts = append(verdicts, count(int64(e.Nothing))+" with nothing in common")
	}
	p.line("  partitions  %s", strings.Join(verdicts, ", "))
	p.line("  read        %s, %s from the source, %s from the target, in %s", records(e.Records), size(e.Source), size(e.Target), millis(e.TookMs))
	p.line("  as of       %s, when the ends were read", e.Began.UTC().Format("2006-01-02 15:04:05 MST"))
}

func differing(n int) string {
	switch n {
	case 0:
		return "none differs"
	case 1:
		return "1 DIFFERS"
	}
	return count(int64(n)) + " DIFFER"
}

func statementTable(rows []verifiedRow, now time.Time) [][]string {
	out := [][]string{{"PARTITION", "VERDICT", "FROM", "THROUGH", "RECORDS", "AS OF", "NOTE"}}
	for _, row := range rows {
		s := row.last
		verdict, through := string(s.Verdict), strconv.FormatInt(s.Through-1, 10)
		switch s.Verdict {
		case replicate.Differs:
			verdict = "DIFFERS"
		case replicate.Nothing:
			verdict, through = "nothing to compare", "-"
		case replicate.Identical:
			if row.differs != nil {
				verdict = "DIFFERS, see below"
			} else if !s.Whole() {
				verdict = "identical, sampled"
			}
		}
		out = append(out, []string{s.Partition.String(), verdict, strconv.FormatInt(s.From, 10), through, count(s.Records), when(s.At, now), statementNote(row)})
	}
	return out
}

// statementNote says what a reader must know before taking the verdict for
// more than it is.
func statementNote(row verifiedRow) string {
	var notes []string
	s := row.last
	add := func(n int64, format string) {
		if n > 0 {
			notes = append(notes, fmt.Sprintf(format, count(n)))
		}
	}
	if !s.Whole() && s.Verdict != replicate.Nothing {
		notes = append(notes, "read "+count(s.Offsets)+" offsets")
		if row.whole != nil {
			notes = append(notes, fmt.Sprintf("all of it through %d at %s", row.whole.Through-1, row.whole.At.UTC().Format("2006-01-02 15:04")))
		}
	}
	if s.Prior != nil {
		notes = append(notes, fmt.Sprintf("rests on %s below %d", s.Prior.At.UTC().Format("2006-01-02 15:04"), s.Prior.Through))
	}
	switch {
	case s.Verdict == replicate.Nothing:
	case s.SourceStart < s.From && s.TargetStart < s.From:
		notes = append(notes, "below lies what was there before the link")
	case s.SourceStart < s.From:
		notes = append(notes, fmt.Sprintf("the target deleted %d to %d", s.SourceStart, s.From-1))
	case s.TargetStart < s.From:
		notes = append(notes, fmt.Sprintf("the source deleted %d to %d", s.TargetStart, s.From-1))
	}
	add(max(0, s.SourceEnd-s.Through), "%s not mirrored then")
	add(s.Restamped, "%s times are the broker's")
	add(s.Cleaned, "%s cleaned at one end")
	add(s.Unjudged, "%s of a compacted log not judged")
	return strings.Join(notes, "; ")
}

func comparedFindings(r compared, rows []verifiedRow) []httpapi.Finding {
	var out []httpapi.Finding
	for _, row := range rows {
		s := row.differs
		if s == nil {
			continue
		}
		what := s.String()
		if len(s.Differences) > 0 {
			d := s.Differences[0]
			what += fmt.Sprintf("; at %d: %s", d.From, d.Detail)
		}
		if s.At.Before(row.last.At) {
			what += fmt.Sprintf("; found %s, and not compared in full since", s.At.UTC().Format("2006-01-02 15:04 MST"))
		}
		out = append(out, httpapi.Finding{Severity: httpapi.Critical, About: linkName(consensus.LinkOf(s.Link.Source, s.Link.Target)), What: what,
			Next: fmt.Sprintf("read [%d,%d) of %s in both regions with a plain consumer; then discard the copy: holdfast mirror reseed --region %s --topic %s --reason WHY", s.DiffersFrom(), s.DiffersTo, s.Partition, s.Link.Target, s.Topic)})
	}
	if r.Run != nil {
		for _, f := range r.Run.Failures {
			out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: linkName(r.Run.Link), What: f.Partition.String() + " was not compared: " + f.Why, Next: "holdfast mirror status"})
		}
		if n := r.Run.Failed - len(r.Run.Failures); n > 0 {
			out = append(out, httpapi.Finding{Severity: httpapi.Warning, About: linkName(r.Run.Link), What: fmt.Sprintf("%d more were not compared", n)})
		}
	}
	return out
}
