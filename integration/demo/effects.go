package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// effect is one line of the journal, which lies outside both regions: what a
// mail or an alert would be.
type effect struct {
	Region string `json:"region"`
	Epoch  string `json:"epoch"`
	At     int64  `json:"at"` // Unix nanoseconds, of the one clock all regions share here
	ID     string `json:"id"`
}

// effectsMain reads the topic in a group and writes a line for each event. It
// knows nothing of holdfast but the epoch that `holdfast guard` gives it.
func effectsMain(ctx context.Context, args []string) (err error) {
	fs := flag.NewFlagSet("effects", flag.ContinueOnError)
	region := fs.String("region", "", "where it runs")
	brokers := fs.String("brokers", "", "that region's Kafka")
	journal := fs.String("journal", "", "file to append to")
	if err := fs.Parse(args); err != nil {
		return err
	}
	f, err := os.OpenFile(*journal, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	cl, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(*brokers, ",")...), kgo.ConsumerGroup(groupEffects), kgo.ConsumeTopics(topic),
		kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(200*time.Millisecond), kgo.SessionTimeout(6*time.Second),
	)
	if err != nil {
		return err
	}
	defer cl.Close() // leaves the group
	epoch := os.Getenv("HOLDFAST_EPOCH")
	for ctx.Err() == nil {
		fetches := cl.PollRecords(ctx, 500)
		var lines []byte
		fetches.EachRecord(func(r *kgo.Record) {
			b, err := json.Marshal(effect{*region, epoch, time.Now().UnixNano(), string(r.Key)})
			if err != nil {
				panic(err) // plain data
			}
			lines = append(append(lines, b...), '\n')
		})
		if len(lines) == 0 {
			continue
		}
		if _, err := f.Write(lines); err != nil {
			return err
		}
		// After the effect, before the next one; also when we were just told to end.
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		err := cl.CommitUncommittedOffsets(cctx)
		cancel()
		if err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "effects: commit:", err)
		}
	}
	return nil
}
