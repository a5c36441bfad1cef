package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/kafka"
)

// Bounds of one take. A manifest is read whole, so it must stay small; a
// cluster that is greater is refused rather than cut short.
const (
	takeTimeout   = 5 * time.Minute
	groupsMax     = 20_000
	offsetsMax    = 300_000
	partitionsMax = 200_000
	notesMax      = 20 // names in one note
)

// internalPrefix begins the names of topics that belong to brokers and tools:
// Kafka's own, and the topic of our probe. They are made anew, never restored.
const internalPrefix = "__"

// Config says what is taken, and from where.
type Config struct {
	Client *kafka.Client
	Log    *slog.Logger // nil: silent
	// Exclude leaves groups out; nil: none.
	Exclude func(group string) bool
}

// Taker takes committed offsets and log ranges. It fulfils backup.Taker.
type Taker struct {
	client  *kafka.Client
	log     *slog.Logger
	exclude func(string) bool
}

var _ backup.Taker = (*Taker)(nil)

// New returns the engine for one cluster.
func New(conf Config) (*Taker, error) {
	if conf.Client == nil {
		return nil, errors.New("back up kafka: no client")
	}
	t := &Taker{client: conf.Client, log: conf.Log, exclude: conf.Exclude}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	if t.exclude == nil {
		t.exclude = func(string) bool { return false }
	}
	return t, nil
}

// Engine is kafka.
func (t *Taker) Engine() backup.Engine { return backup.Kafka }

// Take reads everything anew; it is small, so nothing of an earlier set is
// used and nothing is put into the sink: it all lies in the manifest.
func (t *Taker) Take(ctx context.Context, in backup.Take) (backup.Manifest, error) {
	ctx, cancel := context.WithTimeout(ctx, takeTimeout)
	defer cancel()
	m, err := t.take(ctx, in)
	if err != nil {
		return backup.Manifest{}, fmt.Errorf("take the offsets of kafka %s: %w", t.client.Name(), err)
	}
	return m, nil
}

func (t *Taker) take(ctx context.Context, in backup.Take) (backup.Manifest, error) {
	progress := func(done int64, what string) {
		if in.Progress != nil {
			in.Progress(backup.Progress{Stage: "kafka: " + what, Done: done, Total: 3, Unit: "steps"})
		}
	}
	began := time.Now()
	m := backup.Manifest{Engine: backup.Kafka, Kafka: &backup.KafkaPart{}}
	id, err := t.client.Ping(ctx)
	if err != nil {
		return m, err
	}
	m.Store = backup.Store{ID: id, Version: t.version(ctx)}

	progress(0, "read committed offsets")
	taken, err := t.groups(ctx)
	if err != nil {
		return m, err
	}
	progress(1, "read the ranges of the logs")
	// Only now: an end that is read later is never too low for what was
	// committed before.
	topics, err := t.topics(ctx)
	if err != nil {
		return m, err
	}
	progress(2, "check")
	m.Kafka.Groups, m.Kafka.Topics = taken.groups, topics
	m.Notes = slices.Concat(taken.notes, place(m.Kafka))
	for _, g := range m.Kafka.Groups {
		m.Totals.Rows += uint64(len(g.Offsets))
	}
	again, err := t.client.Ping(ctx)
	if err != nil {
		return m, err
	}
	if again != id {
		return m, fmt.Errorf("the cluster's id was %s and is now %s: %w", id, again, kafka.ErrWrongCluster)
	}
	progress(3, "done")
	t.log.Info("kafka offsets taken", "kafka", t.client.Name(), "set", string(in.Set), "topics", len(topics),
		"groups", len(m.Kafka.Groups), "offsets", m.Totals.Rows, "took", time.Since(began))
	return m, nil
}

// version is what the first broker that answers seems to be. It is for people
// only, so a cluster that does not tell is no error.
func (t *Taker) version(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	brokers, _ := t.client.Admin.ApiVersions(ctx) // what did answer is enough for a guess
	for _, b := range brokers.Sorted() {
		if b.Err == nil {
			return b.VersionGuess()
		}
	}
	return "unknown"
}

// place says which groups do not stand within their logs. The set is taken
// all the same: it is so in the region, and a person has to know.
func place(k *backup.KafkaPart) (notes []string) {
	type key struct {
		topic     string
		partition int32
	}
	logs := map[key]backup.KafkaPartition{}
	known := map[string]bool{}
	for _, t := range k.Topics {
		known[t.Name] = true
		for _, p := range t.Partitions {
			logs[key{t.Name, p.Partition}] = p
		}
	}
	var below, beyond, gone []string
	for _, g := range k.Groups {
		for _, o := range g.Offsets {
			where := fmt.Sprintf("%s at %s/%d", g.Name, o.Topic, o.Partition)
			p, there := logs[key{o.Topic, o.Partition}]
			switch {
			case !known[o.Topic]:
				gone = append(gone, where)
			case !there || o.Offset > p.End:
				beyond = append(beyond, where)
			case o.Offset < p.Start:
				below = append(below, where)
			}
		}
	}
	say := func(format string, names []string) {
		if len(names) > 0 {
			notes = append(notes, fmt.Sprintf(format, some(names)))
		}
	}
	say("offsets below the start of their log, where retention was faster than the group: %s", below)
	say("offsets beyond the end of their log, which was cut back or made anew: %s; a drill will refuse this set", beyond)
	say("offsets for topics that are not there: %s", gone)
	return notes
}

// some names the first ones and counts the rest.
func some(names []string) string {
	slices.Sort(names)
	if n := len(names) - notesMax; n > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:notesMax], ", "), n)
	}
	return strings.Join(names, ", ")
}
