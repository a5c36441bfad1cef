package repository

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/objects"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

// ReportKey names the report of a drill. A drill that was tried again has a
// report for each attempt: the first one may have been written right before
// its process was killed.
func ReportKey(rep restore.Report) string {
	run := rep.Run
	if rep.Attempt > 1 {
		run = fmt.Sprintf("%s-%d", run, rep.Attempt)
	}
	return backup.DrillKey(rep.Set, run)
}

// PutReport stores a drill's page, and then its signed report, beside the set.
// It returns the digest of the report as stored.
func (r *Repository) PutReport(ctx context.Context, rep restore.Report, page []byte) (backup.Digest, error) {
	d, err := r.putReport(ctx, rep, page)
	if err != nil {
		return "", fmt.Errorf("store the report of drill %s of set %s: %w", rep.Run, rep.Set, err)
	}
	return d, nil
}

func (r *Repository) putReport(ctx context.Context, rep restore.Report, page []byte) (backup.Digest, error) {
	key := ReportKey(rep)
	switch {
	case r.c.Sign == nil:
		return "", errors.New("a certificate to sign with is needed")
	case !goodName(rep.Run) || !goodName(string(rep.Set)):
		return "", fmt.Errorf("%q cannot be its name", key)
	case len(page) > pageBytesMax:
		return "", fmt.Errorf("its page has %d bytes, want at most %d", len(page), pageBytesMax)
	}
	rep.Format = backup.Format
	if rep.Cluster == "" {
		rep.Cluster = r.c.Cluster
	}
	if rep.Ended.IsZero() {
		rep.Ended = r.c.Now().UTC()
	}
	body, err := r.sign(domainReport, rep)
	if err != nil {
		return "", err
	}
	if _, err := r.openReport(key, body); err != nil {
		return "", fmt.Errorf("our own report would be refused: %w", err)
	}
	if err := r.store.Put(ctx, strings.TrimSuffix(key, ".json")+".md", page, objects.PutOptions{}); err != nil {
		return "", err
	}
	return digest(body), r.putAndReadBack(ctx, key, body)
}

// Report reads a report by its key and verifies it.
func (r *Repository) Report(ctx context.Context, key string) (restore.Report, backup.Digest, error) {
	body, err := r.store.Get(ctx, key, pageBytesMax)
	if err != nil {
		return restore.Report{}, "", fmt.Errorf("report %s: %w", key, err)
	}
	rep, err := r.openReport(key, body)
	if err != nil {
		return restore.Report{}, "", fmt.Errorf("report %s: %w", key, err)
	}
	return rep, digest(body), nil
}

func (r *Repository) openReport(key string, body []byte) (restore.Report, error) {
	var rep restore.Report
	err := r.openEnvelope(domainReport, body, &rep, func() (time.Time, topology.Node) { return rep.Ended, rep.By })
	if err != nil {
		return restore.Report{}, err
	}
	if rep.Cluster != r.c.Cluster || ReportKey(rep) != key {
		return restore.Report{}, fmt.Errorf("%w: it is about drill %s of set %s of %s", ErrSwapped, rep.Run, rep.Set, rep.Cluster)
	}
	return rep, nil
}
