package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
)

func TestRateMeter_FindsTheRateUnderAnyDelays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ppm := rapid.Float64Range(-5000, 5000).Draw(t, "ppm")
		var m rateMeter
		now, known := clock.Instant(time.Hour), false
		for range 40 * 60 * 2 { // 40 minutes of reports
			now = now.Add(500 * time.Millisecond)
			delay := time.Duration(rapid.IntRange(0, 50).Draw(t, "delay")) * time.Millisecond
			if rapid.IntRange(0, 9).Draw(t, "stall") == 0 {
				delay = 2 * time.Second // a report that waited for a connection
			}
			sent := now.Add(-delay)
			m = m.add(now, clock.Instant(float64(sent)*(1+ppm/1e6)))
			got, ok := m.ppm()
			if ok && math.Abs(got-ppm) > 350 {
				t.Fatalf("found %.0f ppm, want %.0f", got, ppm)
			}
			known = known || ok
		}
		if !known {
			t.Fatal("40 minutes were not enough")
		}
	})
}

func TestRateMeter_SaysNothingBeforeItsBaseline(t *testing.T) {
	var m rateMeter
	for at := time.Duration(0); at < rateBaseline; at += time.Second {
		m = m.add(clock.Instant(at), clock.Instant(at))
		if _, ok := m.ppm(); ok {
			t.Fatalf("a verdict after %s", at)
		}
	}
}

func TestRateOf_KeepsTheHighestRateAndTakesNoNewTopicForOne(t *testing.T) {
	var r rateOf
	at := time.Now()
	add := func(d time.Duration, partitions int, sum int64) { at = at.Add(d); r.add(at, partitions, sum) }
	add(0, 4, 1000)
	add(2*time.Second, 4, 2000)
	add(10*time.Second, 4, 2000)
	if got := r.perSecond(); got != 500 {
		t.Errorf("%.0f/s, want 500", got)
	}
	add(2*time.Second, 5, 5_000_000) // a topic that held much appears
	add(2*time.Second, 5, 5_000_100)
	if got := r.perSecond(); got != 500 {
		t.Errorf("%.0f/s after a new topic, want 500", got)
	}
	for range 400 {
		add(2*time.Second, 5, 5_000_100)
	}
	if got := r.perSecond(); got != 0 {
		t.Errorf("%.0f/s after %s of silence, want 0", got, rateSpan)
	}
	if n := len(r.samples); n > int(rateSpan/rateStep)+1 {
		t.Errorf("%d samples are kept", n)
	}
	add(2*time.Second, 5, 0) // recreated
	if got := r.perSecond(); got != 0 {
		t.Errorf("%.0f/s when the ends fell", got)
	}
}

func TestRateOf_KnowsAPartitionThatWasSeenForSecondsOnly(t *testing.T) {
	r := rateOf{step: partRateStep}
	at := time.Now()
	add := func(d time.Duration, sum int64) { at = at.Add(d); r.add(at, 1, sum) }
	add(0, 1000)
	add(rateLeast/2, 1900)
	if got := r.perSecond(); got != 0 {
		t.Errorf("%.0f/s after half a second, want no verdict", got)
	}
	add(rateLeast/2, 2000)
	add(rateLeast, 3000)
	if got := r.perSecond(); got != 1000 {
		t.Errorf("%.0f/s, want 1000", got)
	}
	if len(r.samples) != 1 {
		t.Errorf("%d samples within one step", len(r.samples))
	}
}

func TestHub_RefusesAReportInAnotherName(t *testing.T) {
	h := newHub(eastNode, clock.System())
	from := westNode
	serve := h.serve(func(context.Context) topology.Node { return from })
	post := func(body []byte) int {
		w := httptest.NewRecorder()
		serve.ServeHTTP(w, httptest.NewRequest(http.MethodPost, reportPath, bytes.NewReader(body)))
		return w.Code
	}
	good, _ := json.Marshal(report{Node: westNode, Region: west})
	other, _ := json.Marshal(report{Node: witness})
	for _, bad := range [][]byte{other, []byte("{"), nil, bytes.Repeat([]byte(" "), reportBytesMax+1)} {
		if code := post(bad); code != http.StatusBadRequest {
			t.Errorf("%.20q was answered with %d", bad, code)
		}
	}
	if _, age := h.of(witness); age >= 0 {
		t.Error("a report in another name was taken")
	}
	if code := post(good); code != http.StatusNoContent {
		t.Errorf("a good report was answered with %d", code)
	}
	if r, age := h.of(westNode); age < 0 || r.Region != west {
		t.Errorf("%+v, %s", r, age)
	}
}

func TestHub_AgesAddUpAndNothingIsKnownBeforeAReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := newHub(eastNode, newBubble()), newMemory(t, consensus.Hold).s
		if got := h.health(s, 0); got.Regions[west].Heard >= 0 || len(got.Regions[west].Probes) != 0 {
			t.Errorf("known before any report: %+v", got.Regions[west])
		}
		runs := replicate.LinkStatus{Running: true, Seen: true}
		h.take(report{Node: westNode, Region: west, Links: map[consensus.LinkID]linkReport{"l": {Status: runs, Rate: 7}}})
		h.take(report{Node: witness, Probes: map[topology.Region]probeReport{west: {AgeMs: 1000, FailingMs: 3000, Checks: map[string]failover.Check{"kafka": {}}}}})
		time.Sleep(2 * time.Second)
		got := h.health(s, 2)
		if w := got.Regions[west]; w.Heard != 2*time.Second || w.Probes[witness].Age != 3*time.Second || w.Probes[witness].Failing != 3*time.Second {
			t.Errorf("%+v", w)
		}
		if l := got.Links["l"]; l.Heard != 2*time.Second || !l.Running || l.Rate != 7 {
			t.Errorf("%+v", l)
		}
		if got.Voters != 2 || got.Members != 3 {
			t.Errorf("%d of %d", got.Voters, got.Members)
		}
	})
}

type nobody struct{}

func (nobody) ControlClient(topology.Node) (*http.Client, string, error) {
	return nil, "", errors.New("no way there")
}

func TestHub_PushEndsWithItsContextAndHearsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub(eastNode, newBubble())
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			h.push(ctx, []topology.Node{eastNode, westNode, witness}, nobody{}, func() report { return report{Node: eastNode} })
		})
		time.Sleep(time.Minute)
		if _, age := h.of(eastNode); age < 0 || age > reportEvery {
			t.Errorf("our own report is %s old", age)
		}
		cancel()
		wg.Wait()
	})
}
