package repository

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/backup"
)

// Finish waits for what is still being sent, completes the manifest that the
// engine returned and writes it. It reads the manifest back. It can be called
// once.
func (s *Sink) Finish(ctx context.Context, m backup.Manifest) (backup.Part, error) {
	part, err := s.finish(ctx, m)
	if err != nil {
		return backup.Part{}, s.fail(fmt.Errorf("finish %s of set %s: %w", s.engine, s.a.set, err))
	}
	return part, nil
}

func (s *Sink) finish(ctx context.Context, m backup.Manifest) (backup.Part, error) {
	if m.Engine != "" && m.Engine != s.engine {
		return backup.Part{}, fmt.Errorf("the manifest is of %s", m.Engine)
	}
	if err := s.drain(ctx); err != nil {
		return backup.Part{}, err
	}
	r := s.a.r
	s.complete(&m)
	if err := checkManifest(&m); err != nil {
		return backup.Part{}, err
	}
	body, err := json.Marshal(m)
	if err != nil {
		return backup.Part{}, err
	}
	if len(body) > manifestBytesMax {
		return backup.Part{}, fmt.Errorf("the manifest has %d bytes, at most %d can be read back", len(body), manifestBytesMax)
	}
	part := backup.Part{
		Engine: s.engine, Manifest: backup.ManifestKey(s.a.set, s.a.id, s.engine), Bytes: int64(len(body)), SHA256: digest(body),
		Started: m.Started, Finished: m.Finished, Totals: m.Totals,
	}
	if err := r.putAndReadBack(ctx, part.Manifest, body); err != nil {
		return backup.Part{}, err
	}
	s.a.mu.Lock()
	defer s.a.mu.Unlock()
	s.a.parts[s.engine] = part
	for _, b := range m.Blobs {
		s.a.uses[b.Key] = true
		s.a.blobs[b.Key] = b.Stored
	}
	for _, p := range m.Packs {
		s.a.uses[p.Index] = true
		s.a.packs[p.Index] = folder{p, backup.PackPrefix(s.engine, p.ID)}
	}
	return part, nil
}

// Close gives up a sink that was not finished, and waits for what is still
// being sent. It may be called always, and twice.
func (s *Sink) Close() {
	s.mu.Lock()
	if s.err == nil && !s.finished {
		s.err = errors.New("the sink was closed")
	}
	s.mu.Unlock()
	s.sending.Wait()
}

// drain sends the last blob and waits for all.
func (s *Sink) drain(ctx context.Context) error {
	s.mu.Lock()
	if s.err == nil && s.finished {
		s.err = errors.New("it was finished before")
	}
	s.finished = true
	last, err := s.open, s.err
	s.open = bundle{}
	s.mu.Unlock()
	if err == nil && len(last.text) > 0 {
		err = s.send(ctx, last)
	}
	// Uploads end with their context or when their retries are over.
	s.sending.Wait()
	return errors.Join(err, s.failed())
}

// complete fills in what the engine does not know.
func (s *Sink) complete(m *backup.Manifest) {
	r := s.a.r
	m.Format, m.Engine, m.Set, m.Attempt = backup.Format, s.engine, s.a.set, s.a.id
	m.Cluster, m.Region = r.c.Cluster, r.c.Region
	m.Blobs, m.Pieces, m.Packs = s.m.Blobs, s.m.Pieces, s.m.Packs
	if m.Finished.IsZero() {
		m.Finished = r.c.Now().UTC()
	}
	if m.Started.IsZero() {
		m.Started = m.Finished
	}
	t := backup.Totals{Rows: m.Totals.Rows, Uploaded: s.fresh.Uploaded, New: s.fresh.New, Objects: len(m.Blobs)}
	for _, b := range m.Blobs {
		t.Bytes += b.Stored
	}
	for _, p := range m.Packs {
		t.Bytes += p.Bytes
		t.Objects += p.Objects
	}
	m.Totals = t
}
