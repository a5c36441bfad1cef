package repository

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"

	"filippo.io/age"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/objects"
)

const (
	// aloneBytes is the size from which a piece gets a blob of its own: what
	// is reused on its own is then also removed and read on its own.
	aloneBytes = 256 << 10
	// bundleBytes is the size at which smaller pieces are sent as one blob.
	bundleBytes = 2 << 20
)

// pieceID is the HMAC-SHA256 of a piece under the dedupe key.
type pieceID [sha256.Size]byte

// Sink keeps what one engine takes in one attempt. It fulfils backup.Sink.
// Uploads go on behind Put: its context must last until Finish or Close.
type Sink struct {
	ctx    context.Context //nolint:containedctx // of the take; that of one Put may end before its upload
	a      *Attempt
	engine backup.Engine
	prev   *backup.Manifest
	known  map[pieceID]int // pieces of prev that are there

	slots   chan struct{} // one per blob that is being sent; the back-pressure of Put
	sending sync.WaitGroup

	mu       sync.Mutex
	err      error // the first one; final
	finished bool
	m        backup.Manifest // blobs, pieces and packs so far
	taken    map[pieceID]int // pieces in m
	from     map[int]int     // blobs of prev in m
	packs    map[string]int  // packs in m, by id
	fresh    backup.Totals   // what this run wrote
	open     bundle
}

var _ backup.Sink = (*Sink)(nil)

// bundle is a blob that is being filled.
type bundle struct {
	blob int // index in m.Blobs, once there is plain text
	text []byte
}

// Sink returns the place for what an engine takes; it builds on Prev(e). When
// ctx ends, what is being sent ends too.
func (a *Attempt) Sink(ctx context.Context, e backup.Engine) *Sink {
	return &Sink{
		ctx: ctx, a: a, engine: e, prev: a.prev[e], known: a.known(a.prev[e]),
		slots: make(chan struct{}, a.r.c.Concurrency),
		taken: map[pieceID]int{}, from: map[int]int{}, packs: map[string]int{},
	}
}

// Put keeps data unless it is there already.
func (s *Sink) Put(ctx context.Context, data []byte) (int, error) {
	if len(data) == 0 || len(data) > backup.PieceBytesMax {
		return 0, s.fail(fmt.Errorf("a piece of %d bytes: want 1 to %d", len(data), backup.PieceBytesMax))
	}
	mac := hmac.New(sha256.New, s.a.key)
	mac.Write(data)
	id := pieceID(mac.Sum(nil))

	piece, full, err := s.place(id, data)
	if err != nil || full == nil {
		return piece, err
	}
	return piece, s.send(ctx, *full)
}

// place finds or makes the piece. A blob that is full now is returned: it is
// the caller's to send.
func (s *Sink) place(id pieceID, data []byte) (piece int, full *bundle, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && s.finished {
		s.err = errors.New("a piece came after the end")
	}
	if s.err != nil {
		return 0, nil, s.err
	}
	if n, ok := s.taken[id]; ok {
		return n, nil, nil
	}
	if n, ok := s.known[id]; ok && s.prev.Pieces[n].Size == int64(len(data)) {
		p := s.prev.Pieces[n]
		blob, ok := s.from[p.Blob]
		if !ok {
			blob = len(s.m.Blobs)
			s.from[p.Blob] = blob
			s.m.Blobs = append(s.m.Blobs, s.prev.Blobs[p.Blob])
		}
		p.Blob = blob
		return s.add(id, p), nil, nil
	}
	if len(data) >= aloneBytes {
		b := bundle{s.newBlob(), bytes.Clone(data)}
		return s.add(id, pieceIn(id, b.blob, 0, len(data))), &b, nil
	}
	if len(s.open.text) == 0 {
		s.open = bundle{s.newBlob(), make([]byte, 0, bundleBytes)}
	}
	piece = s.add(id, pieceIn(id, s.open.blob, len(s.open.text), len(data)))
	s.open.text = append(s.open.text, data...)
	if len(s.open.text)+aloneBytes > bundleBytes { // the next one might not fit
		b := s.open
		s.open = bundle{}
		return piece, &b, nil
	}
	return piece, nil, nil
}

func (s *Sink) newBlob() int {
	s.m.Blobs = append(s.m.Blobs, backup.Blob{})
	return len(s.m.Blobs) - 1
}

func (s *Sink) add(id pieceID, p backup.Piece) int {
	s.m.Pieces = append(s.m.Pieces, p)
	s.taken[id] = len(s.m.Pieces) - 1
	return len(s.m.Pieces) - 1
}

func pieceIn(id pieceID, blob, at, size int) backup.Piece {
	return backup.Piece{ID: hex.EncodeToString(id[:]), Blob: blob, At: int64(at), Size: int64(size)}
}

// send uploads a blob in the background. It waits while as many are under way
// as are allowed.
func (s *Sink) send(ctx context.Context, b bundle) error {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return s.fail(context.Cause(ctx))
	case <-s.ctx.Done():
		return s.fail(context.Cause(s.ctx))
	}
	s.sending.Go(func() {
		defer func() { <-s.slots }()
		if s.failed() != nil {
			return // the attempt is void: do not waste the wire
		}
		blob, err := s.a.r.putBlob(s.ctx, b.text)
		if err != nil {
			_ = s.fail(err)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.m.Blobs[b.blob] = blob
		s.fresh.New++
		s.fresh.Uploaded += blob.Stored
	})
	return nil
}

// putBlob compresses, encrypts and stores plain text under a name of its own.
func (r *Repository) putBlob(ctx context.Context, text []byte) (backup.Blob, error) {
	packed := r.zip.EncodeAll(text, nil)
	stored := bytes.NewBuffer(make([]byte, 0, len(packed)+len(packed)/1024+512))
	w, err := age.Encrypt(stored, r.recipient)
	if err == nil {
		if _, err = w.Write(packed); err == nil {
			err = w.Close()
		}
	}
	if err != nil {
		return backup.Blob{}, fmt.Errorf("encrypt a blob: %w", err)
	}
	sum := digest(stored.Bytes())
	blob := backup.Blob{Key: backup.BlobKey(sum, r.unique()), SHA256: sum, Stored: int64(stored.Len()), Size: int64(len(text))}
	return blob, r.store.Put(ctx, blob.Key, stored.Bytes(), objects.PutOptions{})
}

// Reuse refers to a pack of an earlier set.
func (s *Sink) Reuse(p backup.Pack) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addPack(p)
}

func (s *Sink) addPack(p backup.Pack) int {
	if n, ok := s.packs[p.ID]; ok {
		return n
	}
	s.m.Packs = append(s.m.Packs, p)
	s.packs[p.ID] = len(s.m.Packs) - 1
	return len(s.m.Packs) - 1
}

// fail keeps the first error, and returns it.
func (s *Sink) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	return s.err
}

func (s *Sink) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}
