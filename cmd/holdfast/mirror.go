package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

func mirrorVerb(a *app) *cobra.Command {
	return group("mirror", "What is copied between the regions' Kafka clusters", mirrorStatus(a), mirrorTopics(a), mirrorDrift(a), mirrorVerify(a), mirrorPause(a), mirrorResume(a), mirrorReseed(a), mirrorOrphans(a))
}

func mirrorStatus(a *app) *cobra.Command {
	var every bool
	c := &cobra.Command{
		Use:   "status",
		Short: "How far each direction is behind, and what does not move and why",
		Long:  "Lists the partitions that do not run; --all lists every one. It ends with 5 when\nsomething needs a person.",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			r, err := client.MirrorStatus(c.Context())
			if err != nil {
				return err
			}
			if err := a.show(r, func() string { return renderMirror(r, every) }); err != nil {
				return err
			}
			if grave(mirrorFindings(r)) {
				return ended{exitFindings}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&every, "all", false, "list every partition")
	return c
}

func mirrorPause(a *app) *cobra.Command {
	var h hold
	var within time.Duration
	c := &cobra.Command{
		Use:   "pause --for 10m --reason WHY",
		Short: "Stop mirroring for a while; the standby falls behind meanwhile",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if within <= 0 || within > pauseMax {
				return usagef(c, "--for %s: want more than 0 and at most %s", within, span(pauseMax))
			}
			if h.reason == "" {
				return usagef(c, "say why: --reason WHY")
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			hold := h.wire()
			hold.Until = a.now().Add(within).UTC().Round(time.Second)
			if err := client.MirrorPause(c.Context(), hold); err != nil {
				return err
			}
			return a.show(hold, func() string {
				return "Mirroring is paused until " + when(hold.Until, a.now()) + ": holdfast mirror resume ends it.\n"
			})
		},
	}
	f := c.Flags()
	f.StringVar(&h.region, "region", "", "target `region` (default: every one)")
	f.StringVar(&h.reason, "reason", "", "`why`, for the audit log")
	f.DurationVar(&within, "for", 10*time.Minute, "how long")
	return c
}

func mirrorResume(a *app) *cobra.Command {
	var h hold
	var loss string
	var partition int32
	c := &cobra.Command{
		Use:   "resume",
		Short: "Mirror again, and try frozen partitions once more",
		Long: `Ends a pause, and tries frozen partitions once more. A partition is frozen again
when its logs still do not fit.

Records that the source lost before they were mirrored never come. To go on
without them, name the partition and exactly the range that holdfast mirror status
shows, and say why; the target gets a hole there, and the log keeps who said so:

  holdfast mirror resume --topic events --partition 3 --accept-loss 1000-1200 --reason "retention took them"`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if loss != "" {
				given, err := lossOf(c, h, partition, loss)
				if err != nil {
					return err
				}
				if err := client.AcceptLoss(c.Context(), given); err != nil {
					return err
				}
				return a.show(given, func() string {
					return fmt.Sprintf("Given up: [%d,%d) of %s/%d. Mirroring goes on behind it: holdfast mirror status\n", given.From, given.To, given.Topic, given.Partition)
				})
			}
			hold := h.wire()
			if err := client.MirrorResume(c.Context(), hold); err != nil {
				return err
			}
			return a.show(hold, func() string { return "Mirroring goes on: holdfast mirror status\n" })
		},
	}
	f := c.Flags()
	f.StringVar(&h.region, "region", "", "target `region` (default: every one)")
	f.StringSliceVar(&h.topics, "topic", nil, "`topic` whose frozen partitions are tried again, repeatable (default: all)")
	f.Int32Var(&partition, "partition", -1, "`number` of the partition, with --accept-loss")
	f.StringVar(&loss, "accept-loss", "", "go on without these offsets, as `FROM-TO`; TO is the first that is wanted again")
	f.StringVar(&h.reason, "reason", "", "`why`, for the audit log")
	return c
}

// lossOf reads what is given up.
func lossOf(c *cobra.Command, h hold, partition int32, loss string) (httpapi.AcceptLoss, error) {
	out := httpapi.AcceptLoss{Partition: partition, Reason: h.reason}
	from, to, both := strings.Cut(loss, "-")
	var errFrom, errTo error
	out.From, errFrom = strconv.ParseInt(from, 10, 64)
	out.To, errTo = strconv.ParseInt(to, 10, 64)
	switch {
	case !both || errFrom != nil || errTo != nil || out.From < 0 || out.To <= out.From:
		return out, usagef(c, "--accept-loss %s: want FROM-TO, such as 1000-1200", loss)
	case len(h.topics) != 1 || partition < 0:
		return out, usagef(c, "say of which partition: --topic TOPIC --partition NUMBER")
	case h.reason == "":
		return out, usagef(c, "say why: --reason WHY")
	}
	out.Topic = h.topics[0]
	return out, nil
}

// hold is what is paused or resumed, as flags.
type hold struct {
	region, reason string
	topics         []string
}

func (h hold) wire() httpapi.MirrorHold {
	return httpapi.MirrorHold{Region: topology.Region(h.region), Topics: h.topics, Reason: h.reason}
}

func mirrorReseed(a *app) *cobra.Command {
	var s start
	var want httpapi.Reseed
	var region string
	c := &cobra.Command{
		Use:   "reseed --region REGION --reason WHY",
		Short: "Discard what a standby holds of some topics, and mirror them anew",
		Long: `Discards topics of a region that holds no role, and mirrors them again from where
the source starts, at the same offsets. Refused where the source starts above 0 and
the topic is only compacted: such a prefix cannot be seeded. What is discarded is
named, with its ranges, in the plan, which runs only after a person has typed the
region's name. Scripts take the hash from --json, and run that very plan with --plan
HASH --yes. Read first what only this copy has, if anybody may want it: orphans of a
region that came back are salvaged, see holdfast mirror orphans list.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			want.Region = topology.Region(region)
			if region == "" && s.hash == "" {
				return usagef(c, "say which region: --region REGION")
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			given := &want
			if region == "" {
				given = nil
			}
			return a.begin(c, s, client, region != "", region,
				func(ctx context.Context) (httpapi.Planned, error) { return client.PlanReseed(ctx, want) },
				func(ctx context.Context, hash string) (consensus.PlanID, error) {
					return client.RunReseed(ctx, hash, given)
				})
		},
	}
	f := c.Flags()
	f.StringVar(&region, "region", "", "`region` whose copies are discarded")
	f.StringSliceVar(&want.Topics, "topic", nil, "`topic`, repeatable (default: all with a frozen partition)")
	f.StringVar(&want.Reason, "reason", "", "`why`, for the audit log")
	s.runFlags(f)
	return c
}
