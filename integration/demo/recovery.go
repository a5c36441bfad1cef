package main

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/holdfast-dr/holdfast/internal/httpapi"
)

// actSet takes a recovery set of the active region while events flow.
func (s *story) actSet() error {
	act("d", "A recovery set of "+west+", under load")
	before, err := s.rows(west, "1")
	if err != nil {
		return err
	}
	if _, err := s.cli(west, "backup", "run"); err != nil {
		return err
	}
	after, err := s.rows(west, "1")
	if err != nil {
		return err
	}
	s.say("events went on meanwhile: %d were in ClickHouse when it began, %d when it was sealed", before, after)
	if _, err := s.cli(west, "backup", "list"); err != nil {
		return err
	}
	s.beforeSet = uint64(before)
	return nil
}

// actDrill proves that set in the other region while its own region is gone.
func (s *story) actDrill() error {
	act("f", "The set of the lost region is proven in "+east)
	if _, err := s.cli(east, "drill", "run"); err != nil {
		return err
	}
	runs, err := s.client(east).Runs(s.ctx, "drill")
	if err != nil {
		return err
	}
	if len(runs) == 0 {
		return errors.New("the log has no drill")
	}
	var e httpapi.RunEvidence
	if err := json.Unmarshal(runs[0].Run.Evidence, &e); err != nil {
		return err
	}
	d := &s.out.Drill
	d.OK, d.RTOMs, d.RPOMs, d.Rows, d.Control = e.OK, e.RTOMs, e.RPOMs, e.Totals.Rows, e.Controls > 0 && e.Caught == e.Controls
	s.claim(d.OK && d.Rows >= s.beforeSet+issues, "a drill restored the set: %d rows compared equal, %.1f s, data %.0f s old", d.Rows, float64(d.RTOMs)/1000,
		(time.Duration(d.RPOMs) * time.Millisecond).Seconds())
	s.claim(d.Control, "%d of %d things broken on purpose were caught", e.Caught, e.Controls)
	return nil
}
