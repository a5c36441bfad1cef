package repository

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// What is signed. A signature under one is none under the other.
const (
	domainSeal   = "seal"
	domainReport = "report"
)

var (
	// ErrNewer says that the object has a format that this binary does not know.
	ErrNewer = errors.New("it was made by a newer holdfast; use that version to read it")
	// ErrDamaged says that the object is not what was written.
	ErrDamaged error = damage("it is damaged")
	// ErrSwapped says that the object is a good one, of something else.
	ErrSwapped error = damage("it belongs to something else; objects were swapped or copied into the wrong repository")
)

// envelope is a signed object. The signature is over the exact bytes of the
// payload.
type envelope struct {
	Format      int             `json:"format"`
	Payload     json.RawMessage `json:"payload"`
	Signature   []byte          `json:"signature"`
	Certificate string          `json:"certificate"` // PEM, with what is above it
}

func (r *Repository) sign(domain string, payload any) ([]byte, error) {
	raw, err := json.Marshal(payload)
	if err != nil {
		return nil, err
	}
	signature, certPEM, err := r.c.Sign.Sign(domain, raw)
	if err != nil {
		return nil, err
	}
	// Marshal leaves raw as it is: it is compact and escaped already.
	return json.Marshal(envelope{backup.Format, raw, signature, string(certPEM)})
}

// openEnvelope checks the signature and decodes the payload into v, for which
// signed then tells when it says it was signed, and by whom.
func (r *Repository) openEnvelope(domain string, body []byte, v any, signed func() (time.Time, topology.Node)) error {
	e, err := decodeEnvelope(body)
	if err != nil {
		return err
	}
	if err := decode(e.Payload, v); err != nil {
		return err
	}
	at, by := signed()
	node, err := r.c.Verifier.Verify(domain, e.Payload, e.Signature, []byte(e.Certificate), at)
	if errors.Is(err, certs.ErrSignature) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err != nil { // the certificate is not trusted here: that is no property of the set
		return err
	}
	if node != by {
		return fmt.Errorf("%w: it says that %s wrote it, and %s signed it", ErrSwapped, by, node)
	}
	return nil
}

func decodeEnvelope(body []byte) (envelope, error) {
	var e envelope
	if err := decode(body, &e); err != nil {
		return e, err
	}
	if len(e.Payload) == 0 || len(e.Signature) == 0 || e.Certificate == "" {
		return e, fmt.Errorf("%w: it is not signed", ErrDamaged)
	}
	return e, nil
}

// decode reads one JSON value with a format. The format is looked at first: a
// newer one may have any shape.
func decode(body []byte, v any) error {
	var f struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(body, &f); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	switch {
	case f.Format > backup.Format:
		return fmt.Errorf("%w (format %d, this one knows %d)", ErrNewer, f.Format, backup.Format)
	case f.Format < 1:
		return fmt.Errorf("%w: it has no format", ErrDamaged)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows its end", ErrDamaged)
	}
	return nil
}

func digest(b []byte) backup.Digest {
	sum := sha256.Sum256(b)
	return backup.Digest(hex.EncodeToString(sum[:]))
}
