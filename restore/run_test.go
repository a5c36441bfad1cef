package restore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/holdfast-dr/holdfast/backup"
)

func TestRun_RestoresComparesAndStays(t *testing.T) {
	w := newWorld()
	l := w.load(t)
	out, err := Run(t.Context(), w.vault(), w.plan(t, l), l, w.targets, RunOptions{Clock: w})
	if err != nil || !out.OK {
		t.Fatalf("ok %v: %v", out.OK, err)
	}
	if out.Rows != 16 || out.Bytes == 0 || len(out.Engines) != 3 || out.Ms == 0 || w.called("remove ") != 0 {
		t.Errorf("%+v, calls %v", out, w.calls)
	}
	if slices.Index(w.calls, "restore clickhouse") > slices.Index(w.calls, "restore postgres") {
		t.Error("not in the order of the set")
	}
}

func TestRun_ADamagedObjectIsRefusedBeforeAnyTargetIsTouched(t *testing.T) {
	w := newWorld()
	l := w.load(t)
	plan := w.plan(t, l)
	key := l.Manifests[backup.Postgres].Blobs[0].Key // of the part that is restored last
	out, err := Run(t.Context(), w.vault().Corrupted(key), plan, l, w.targets, RunOptions{Clock: w})
	var damaged *DamagedError
	if !errors.As(err, &damaged) || damaged.Broken != 1 || damaged.Findings[0].Object != key || !errors.Is(err, ErrDamaged) {
		t.Fatalf("got %v", err)
	}
	if out.OK || len(out.Engines) != 0 || len(out.Findings) != 1 || w.called("restore ")+w.called("remove ") != 0 {
		t.Errorf("%+v, calls %v", out, w.calls)
	}
	if !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "nothing was restored") {
		t.Errorf("the error does not say it: %v", err)
	}
}

func TestRun_NeverOverSomethingThatExists(t *testing.T) {
	w := newWorld()
	l := w.load(t)
	free := w.plan(t, l)
	w.target(backup.Postgres).exists = true
	blocked := w.plan(t, l)
	for name, plan := range map[string]Plan{"known to the plan": blocked, "come up since": free} {
		_, err := Run(t.Context(), w.vault(), plan, l, w.targets, RunOptions{Clock: w})
		var refused *RefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), "there already") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if w.called("restore ")+w.called("remove ") != 0 {
		t.Errorf("calls %v", w.calls)
	}
}

func TestRun_RefusesAPlanOfSomethingElse(t *testing.T) {
	w := newWorld()
	l := w.load(t)
	try := func(name string, change func(p *Plan, ts *[]Target)) {
		plan, ts := w.plan(t, l), slices.Clone(w.targets)
		change(&plan, &ts)
		if out, err := Run(t.Context(), w.vault(), plan, l, ts, RunOptions{Clock: w}); err == nil || out.OK {
			t.Errorf("%s: not refused", name)
		}
	}
	try("another seal", func(p *Plan, _ *[]Target) { p.Seal = "00" })
	try("no seal", func(p *Plan, _ *[]Target) { p.Seal = "" })
	try("another place", func(p *Plan, _ *[]Target) { p.Parts[1].Where = "elsewhere" })
	try("a target less", func(_ *Plan, ts *[]Target) { *ts = (*ts)[:1] })
	try("two targets", func(_ *Plan, ts *[]Target) { *ts = append(*ts, (*ts)[0]) })
	try("no parts", func(p *Plan, _ *[]Target) { p.Parts = nil })
	if w.called("restore ") != 0 {
		t.Errorf("calls %v", w.calls)
	}
}

func TestRun_ADifferenceIsAnErrorAndWhatWasMadeIsRemoved(t *testing.T) {
	for _, keep := range []bool{false, true} {
		w := newWorld()
		l := w.load(t)
		w.target(backup.ClickHouse).rows = 9
		out, err := Run(t.Context(), w.vault(), w.plan(t, l), l, w.targets, RunOptions{Clock: w, Keep: keep})
		var different *DifferentError
		if !errors.As(err, &different) || different.Engine != backup.ClickHouse || out.OK {
			t.Fatalf("got %v", err)
		}
		if keep && (w.called("remove ") != 0 || len(out.Left) != 2) || !keep && (w.called("remove ") != 2 || len(out.Left) != 0) {
			t.Errorf("keep %v: left %v, calls %v", keep, out.Left, w.calls)
		}
	}
}

func TestRun_WhateverFailsNothingIsSaidToBeRestored(t *testing.T) {
	clean := newWorld()
	l := clean.load(t)
	plan := clean.plan(t, l)
	before := len(clean.calls)
	if _, err := Run(t.Context(), clean.vault(), plan, l, clean.targets, RunOptions{Clock: clean}); err != nil {
		t.Fatal(err)
	}
	calls := len(clean.calls) - before
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld()
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		at := rapid.IntRange(1, calls).Draw(rt, "call")
		cancels := rapid.Bool().Draw(rt, "cancel")
		w.fault = func(string) error {
			if len(w.calls) != at {
				return nil
			}
			if cancels {
				cancel()
			}
			return errDown
		}
		out, err := Run(ctx, w.vault(), plan, l, w.targets, RunOptions{Clock: w})
		if err == nil || out.OK {
			rt.Fatalf("call %d failed and the outcome is ok: %v", at, w.calls)
		}
		for _, e := range backup.Engines() {
			if made := slices.Index(w.calls, "restore "+string(e)); made >= 0 && slices.Index(w.calls, "remove "+string(e)) < made {
				rt.Fatalf("%s was made and not removed: %v", e, w.calls)
			}
		}
	})
}

func TestLoad_RefusesWhatDoesNotBelongTogether(t *testing.T) {
	try := func(name, want string, change func(w *world)) {
		t.Helper()
		w := newWorld()
		change(w)
		if _, err := Load(t.Context(), w.vault(), setID, ""); err == nil || !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	edit := func(change func(m *backup.Manifest)) func(w *world) {
		return func(w *world) {
			l := w.load(t)
			var ms []backup.Manifest
			for _, e := range l.Engines() {
				m := l.Manifests[e]
				change(m)
				ms = append(ms, *m)
			}
			w.seal(ms...)
		}
	}
	try("another set", "is of set", edit(func(m *backup.Manifest) { m.Set = "other" }))
	try("another attempt", "is of set", edit(func(m *backup.Manifest) { m.Attempt = "other" }))
	try("another region", "is of eu-west", edit(func(m *backup.Manifest) { m.Region = "eu-west" }))
	try("no format", "format 0", edit(func(m *backup.Manifest) { m.Format = 0 }))
	try("no offsets", "holds no offsets", edit(func(m *backup.Manifest) { m.Kafka = nil }))
	try("no tables", "holds no tables", edit(func(m *backup.Manifest) { m.ClickHouse = nil }))
	try("no files", "holds no files", edit(func(m *backup.Manifest) { m.Postgres = nil }))
	try("a pack that is not there", "in pack 1 of 1", edit(func(m *backup.Manifest) {
		if m.ClickHouse != nil {
			m.ClickHouse.Tables[0].Partitions[0].Pack = 1
		}
	}))
	try("a piece outside", "outside its blob", edit(func(m *backup.Manifest) {
		for i := range m.Pieces {
			m.Pieces[i].Size++
		}
	}))
	try("a blob that is not there", "in blob 3 of 1", edit(func(m *backup.Manifest) {
		for i := range m.Pieces {
			m.Pieces[i].Blob = 3
		}
	}))
	try("a file that is short", "the file is 17", edit(func(m *backup.Manifest) {
		if m.Postgres != nil {
			m.Postgres.Files[0].Bytes--
		}
	}))
	try("a part twice", "two parts of kafka", func(w *world) { w.seal(w.kafka, w.kafka) })
	try("no parts", "has no parts", func(w *world) { w.seal() })
	try("another seal", "is the seal of set", func(w *world) {
		w.objects[backup.SealKey(setID)] = []byte(strings.ReplaceAll(string(w.objects[backup.SealKey(setID)]), "SET1", "SET2"))
	})
}

func TestLoad_ANewerFormatIsNoDamage(t *testing.T) {
	w := newWorld()
	m := w.kafka
	m.Format = backup.Format + 1
	w.seal(m)
	if _, err := Load(t.Context(), w.vault(), setID, ""); err == nil || errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "use a newer one") {
		t.Errorf("got %v", err)
	}
}

func TestMakePlan_SaysWhatGoesWhereAndWhatIsInTheWay(t *testing.T) {
	w := newWorld()
	l := w.load(t)
	w.target(backup.ClickHouse).exists = true
	w.calls = nil
	p, err := MakePlan(t.Context(), l, w.targets[1:], PlanOptions{Now: sealedAt.Add(time.Hour), Rate: 10})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Parts) != 3 || p.Parts[0].Where != OffsetsOnly || p.Parts[0].Restored || p.Parts[0].Rows != 2 || p.Parts[0].Groups != 1 {
		t.Errorf("kafka: %+v", p.Parts[0])
	}
	if ch := p.Parts[1]; ch.Where != "scratch clickhouse" || ch.Tables != 1 || ch.Objects != 4 || ch.Rows != 10 || !ch.Restored {
		t.Errorf("clickhouse: %+v", ch)
	}
	obstacles := fmt.Sprint(p.Obstacles())
	if !strings.Contains(obstacles, "scratch clickhouse is there already") || !strings.Contains(obstacles, "no target is given for postgres") {
		t.Errorf("obstacles %s", obstacles)
	}
	if p.AgeMs != (time.Hour+30*time.Second).Milliseconds() || p.EstimateMs != p.Bytes*100 || p.Rows != 16 {
		t.Errorf("%+v", p)
	}
	if len(w.calls) != 1 {
		t.Errorf("more than a look: %v", w.calls)
	}
}

func TestMakePlan_OfSomeEnginesNamesTheRest(t *testing.T) {
	w := newWorld()
	l := w.load(t)
	p, err := MakePlan(t.Context(), l, w.targets[:1], PlanOptions{Engines: []backup.Engine{backup.Postgres}})
	if err != nil || len(p.Obstacles()) != 0 || len(p.Parts) != 1 || len(p.Notes) != 2 {
		t.Errorf("%v: %+v", err, p)
	}
	if out, err := Run(t.Context(), w.vault(), p, l, w.targets[:1], RunOptions{Clock: w}); err != nil || !out.OK || w.called("restore clickhouse") != 0 {
		t.Errorf("%v: %v", err, w.calls)
	}
	w = newWorld()
	p, err = MakePlan(t.Context(), l, w.targets, PlanOptions{Engines: []backup.Engine{backup.Postgres}})
	if err != nil || len(p.Obstacles()) != 1 {
		t.Errorf("a target too many: %v %v", err, p.Obstacles())
	}
	w.seal(w.kafka)
	p, err = MakePlan(t.Context(), w.load(t), nil, PlanOptions{Engines: []backup.Engine{backup.Postgres}})
	if err != nil || len(p.Obstacles()) != 1 || !strings.Contains(p.Obstacles()[0].What, "has no part of postgres") {
		t.Errorf("an engine that is not there: %v %v", err, p.Obstacles())
	}
}

func TestMakePlan_ATargetThatCannotBeLookedAtIsAnError(t *testing.T) {
	w := newWorld()
	l := w.load(t)
	w.fault = onCall("check postgres", errDown)
	if _, err := MakePlan(t.Context(), l, w.targets, PlanOptions{}); !errors.Is(err, errDown) {
		t.Errorf("got %v", err)
	}
	w.fault = nil
	if _, err := MakePlan(t.Context(), l, append(w.targets, w.targets[0]), PlanOptions{}); !errors.Is(err, errTwoTargets) {
		t.Errorf("got %v", err)
	}
}
