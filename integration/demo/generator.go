package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A generator behaves like a load balancer in front of the regions.
//
//   - It asks each region whether ingestion is active there. A region is down
//     until a check says 200, and down again after `fall` checks that do not.
//   - Exactly one up: events go there. None: they wait, in a bounded buffer.
//     Two: the demo has failed.
//   - Before it sends elsewhere, it waits for the answers that are under way.
//     An event whose answer never came is not sent again, to anywhere.
//   - What was acknowledged goes to the ledger.
type generator struct {
	targets  []*target
	interval time.Duration
	timeout  time.Duration
	fall     int
	ledger   *bufio.Writer
	file     *os.File

	mu    sync.Mutex
	seen  tally
	ledge sync.Mutex
}

// target is one region as the balancer sees it.
type target struct {
	region string
	health string // URL of /active
	client *kgo.Client
	up     bool
	bad    int
}

// tally is what the generator counts.
type tally struct {
	Made, Acked, Refused, Unknown int64
	NoneUp                        time.Duration // total time without a region
	TwoUp                         int64         // rounds in which two were up
	Moves                         []move
	LastAck                       time.Time
}

// move is a change of the active region as events saw it.
type move struct {
	From, To  string
	LastAck   time.Time // of the old one
	FirstAck  time.Time // of the new one
	firstSeen bool
}

const bufferMax = 60 * perSecond // a minute of events

func newGenerator(ledger string, targets []*target, interval, timeout time.Duration, fall int) (*generator, error) {
	f, err := os.Create(ledger)
	if err != nil {
		return nil, err
	}
	return &generator{targets: targets, interval: interval, timeout: timeout, fall: fall, file: f, ledger: bufio.NewWriter(f)}, nil
}

// run makes events until ctx ends, waits for answers, and closes the ledger.
func (g *generator) run(ctx context.Context) error {
	var wg sync.WaitGroup
	checks := make(chan struct{}, 1)
	for _, t := range g.targets {
		wg.Go(func() { g.check(ctx, t, checks) })
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var buffer []int64 // when each waiting event was made
	var flight sync.WaitGroup
	var n int64
	begun := time.Now()
	last := begun
	sent := ""
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-checks:
		case <-tick.C:
		}
		now := time.Now()
		for int64(now.Sub(begun).Seconds()*perSecond) > g.made() {
			if len(buffer) >= bufferMax {
				g.count(func(t *tally) { t.Refused++; t.Made++ })
				continue
			}
			buffer = append(buffer, now.UnixNano())
			g.count(func(t *tally) { t.Made++ })
		}
		to, ups := g.choose()
		if ups == 0 {
			g.count(func(t *tally) { t.NoneUp += now.Sub(last) })
		}
		last = now
		if ups != 1 {
			continue
		}
		if sent != "" && to.region != sent {
			flight.Wait() // no event may be under way in two places
			g.count(func(t *tally) { t.Moves = append(t.Moves, move{From: sent, To: to.region, LastAck: t.LastAck}) })
		}
		sent = to.region
		for _, made := range buffer {
			n++
			e := newEvent(n, made, to.region)
			b, err := json.Marshal(e)
			if err != nil {
				return err
			}
			flight.Add(1)
			to.client.Produce(ctx, &kgo.Record{Topic: topic, Partition: int32(n % partitions), Key: []byte(e.EventID), Value: b}, func(r *kgo.Record, err error) {
				defer flight.Done()
				g.answered(e, to.region, r, err)
			})
		}
		buffer = buffer[:0]
	}
	flight.Wait()
	wg.Wait()
	g.ledge.Lock()
	defer g.ledge.Unlock()
	return errors.Join(g.ledger.Flush(), g.file.Close())
}

func (g *generator) answered(e event, region string, r *kgo.Record, err error) {
	now := time.Now()
	if err != nil {
		g.count(func(t *tally) { t.Unknown++ })
		return
	}
	g.ledge.Lock()
	fmt.Fprintf(g.ledger, "%s %s %d %d %d\n", e.EventID, region, r.Partition, r.Offset, now.UnixNano())
	g.ledge.Unlock()
	g.count(func(t *tally) {
		t.Acked++
		t.LastAck = now
		if k := len(t.Moves) - 1; k >= 0 && !t.Moves[k].firstSeen && t.Moves[k].To == region {
			t.Moves[k].firstSeen, t.Moves[k].FirstAck = true, now
		}
	})
}

// choose returns the region that is up, and how many are.
func (g *generator) choose() (*target, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var to *target
	ups := 0
	for _, t := range g.targets {
		if t.up {
			to = t
			ups++
		}
	}
	if ups > 1 {
		g.seen.TwoUp++
	}
	return to, ups
}

// check asks one region, as a balancer does.
func (g *generator) check(ctx context.Context, t *target, changed chan<- struct{}) {
	client := &http.Client{Timeout: g.timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	for ctx.Err() == nil {
		ok := false
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.health, nil)
		if err == nil {
			var resp *http.Response
			if resp, err = client.Do(req); err == nil {
				ok = resp.StatusCode == http.StatusOK
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		}
		g.mu.Lock()
		was := t.up
		if ok {
			t.up, t.bad = true, 0
		} else if t.bad++; t.bad >= g.fall {
			t.up = false
		}
		is := t.up
		g.mu.Unlock()
		if was != is {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(g.interval):
		}
	}
}

func (g *generator) count(change func(*tally)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(&g.seen)
}

func (g *generator) made() int64 { return g.tally().Made }

func (g *generator) tally() tally {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.seen
	t.Moves = slices.Clone(t.Moves)
	return t
}

// flush brings the ledger to disk, for the counter.
func (g *generator) flush() error {
	g.ledge.Lock()
	defer g.ledge.Unlock()
	return g.ledger.Flush()
}
