package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/holdfast-dr/holdfast/backup"
)

const (
	gaugeWide   = 24               // of the bar
	gaugeText   = 52               // of what is said before it
	gaugeStage  = 2 * time.Second  // between two lines about different stages
	gaugeRepeat = 15 * time.Second // between two lines about the same stage
)

// gauge shows on stderr how far a piece of work is: as a bar on a terminal,
// else as a line now and then.
type gauge struct {
	a      *app
	latest atomic.Pointer[backup.Progress]
	bars   *mpb.Progress // nil: no terminal
	bar    *mpb.Bar

	mu    sync.Mutex
	stage string
	said  time.Time
}

// gauge begins to show. end must be called.
func (a *app) gauge(ctx context.Context) *gauge {
	g := &gauge{a: a}
	if a.live {
		g.bars = mpb.NewWithContext(ctx, mpb.WithOutput(a.err), mpb.WithAutoRefresh(), mpb.WithWidth(gaugeWide))
		g.bar = g.bars.New(0, mpb.BarStyle().Lbound("").Filler("█").Tip("█").Padding("·").Rbound(""),
			mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return pad(g.text(gaugeText), gaugeText) + " " })))
	}
	return g
}

// show may be called at any rate.
func (g *gauge) show(p backup.Progress) {
	g.latest.Store(&p)
	if g.bar != nil {
		g.bar.SetTotal(p.Total, false)
		g.bar.SetCurrent(p.Done)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.a.now()
	wait := gaugeStage
	if p.Stage == g.stage {
		wait = gaugeRepeat
	}
	if g.said.IsZero() || now.Sub(g.said) >= wait {
		g.stage, g.said = p.Stage, now
		g.a.say("  %s", progressText(p))
	}
}

// say prints a line that stays.
func (g *gauge) say(format string, args ...any) {
	if g.bars != nil {
		if _, err := fmt.Fprintf(g.bars, format+"\n", args...); err == nil {
			return
		}
	}
	g.a.say(format, args...)
}

// end takes the bar away. It may be called twice.
func (g *gauge) end() {
	if g.bar == nil {
		return
	}
	g.bar.Abort(true)
	g.bars.Wait()
	g.bar, g.bars = nil, nil
}

func (g *gauge) text(most int) string {
	p := g.latest.Load()
	if p == nil {
		return ""
	}
	return shorten(progressText(*p), most)
}

// progressText is "clickhouse: hash, 1.2 GB of 4.2 GB".
func progressText(p backup.Progress) string {
	figure := func(n int64) string {
		if p.Unit == "bytes" {
			return size(n)
		}
		return count(n)
	}
	unit := ""
	if p.Unit != "bytes" && p.Unit != "" {
		unit = " " + p.Unit
	}
	if p.Total == 1 || p.Total == 0 && p.Done == 1 {
		unit = strings.TrimSuffix(unit, "s")
	}
	out := strings.ReplaceAll(oneLine(p.Stage), " 1 objects", " 1 object") // as a repository says it
	switch {
	case p.Total > 0:
		out += ", " + figure(p.Done) + " of " + figure(p.Total) + unit
	case p.Done > 0:
		out += ", " + figure(p.Done) + unit
	}
	return out
}

// shorten cuts a text to at most n characters, and shows that it did.
func shorten(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}
