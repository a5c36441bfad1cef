package kafka

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/kafka"
)

// taken is what was read of the groups, and what was left out.
type taken struct {
	groups []backup.KafkaGroup // ordered by name; offsets by topic and partition
	notes  []string
}

// groups reads all groups and what they have committed, whole or not at all.
// Offsets that a transaction is about to commit are waited for.
func (t *Taker) groups(ctx context.Context) (taken, error) {
	var listed kadm.ListedGroups
	err := kafka.UntilSettled(ctx, func() (err error) {
		listed, err = t.client.Admin.ListGroups(ctx)
		return err
	})
	if err != nil {
		return taken{}, fmt.Errorf("list groups: %w", err)
	}
	if len(listed) > groupsMax {
		return taken{}, fmt.Errorf("%d groups, at most %d are taken: exclude some", len(listed), groupsMax)
	}
	var out taken
	var names, excluded, others []string
	states := map[string]string{}
	for _, g := range listed.Sorted() {
		switch {
		case t.exclude(g.Group):
			excluded = append(excluded, g.Group)
		case g.ProtocolType != "consumer" && g.ProtocolType != "":
			others = append(others, fmt.Sprintf("%s (%s)", g.Group, g.ProtocolType))
		default:
			names = append(names, g.Group)
			states[g.Group] = g.State
		}
	}
	commits, err := t.client.Commits(kadm.RequireStable(ctx), names)
	if err != nil {
		return taken{}, err
	}
	var internal, unreadable []string
	total := 0
	for _, name := range names {
		offsets, answered := commits[name]
		if !answered {
			return taken{}, fmt.Errorf("read offsets of group %s: no answer", name)
		}
		g := backup.KafkaGroup{Name: name, State: states[name], Offsets: []backup.KafkaOffset{}}
		for _, o := range offsets {
			if strings.HasPrefix(o.Topic, internalPrefix) {
				internal = append(internal, fmt.Sprintf("%s at %s/%d", name, o.Topic, o.Partition))
				continue
			}
			if !utf8.ValidString(o.Metadata) { // JSON would change it without a word
				unreadable = append(unreadable, fmt.Sprintf("%s at %s/%d", name, o.Topic, o.Partition))
				o.Metadata = ""
			}
			g.Offsets = append(g.Offsets, backup.KafkaOffset{Topic: o.Topic, Partition: o.Partition, Offset: o.At, LeaderEpoch: o.LeaderEpoch, Metadata: o.Metadata})
		}
		if total += len(g.Offsets); total > offsetsMax {
			return taken{}, fmt.Errorf("more than %d committed offsets: exclude groups", offsetsMax)
		}
		slices.SortFunc(g.Offsets, func(a, b backup.KafkaOffset) int {
			return cmp.Or(strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
		})
		out.groups = append(out.groups, g)
	}
	say := func(format string, names []string) {
		if len(names) > 0 {
			out.notes = append(out.notes, fmt.Sprintf(format, some(names)))
		}
	}
	say("groups that are excluded: %s", excluded)
	say("groups that commit no offsets as consumers do: %s", others)
	say("offsets in internal topics are not taken: %s", internal)
	say("metadata of offsets that is no text and was left out: %s", unreadable)
	return out, nil
}
