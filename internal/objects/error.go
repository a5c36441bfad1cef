package objects

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// What a caller decides on. Every error that is about one of these wraps it.
var (
	ErrNotFound = errors.New("there is no such object")
	ErrExists   = errors.New("another object is there")
	ErrDenied   = errors.New("the store refuses these credentials")
	// ErrUnreachable: the store did not answer, so nothing is known about the object.
	ErrUnreachable = errors.New("the store does not answer")
	// ErrTooLarge: the object, or the list, is larger than the caller's bound.
	ErrTooLarge = errors.New("it is larger than expected")
)

// secretError is about reading our own credentials.
type secretError struct{ err error }

func (e *secretError) Error() string { return e.err.Error() }
func (e *secretError) Unwrap() error { return e.err }

// status returns the HTTP status of the answer, 0 when there was none.
func status(err error) int {
	var r *smithyhttp.ResponseError
	if errors.As(err, &r) && r.Response != nil && r.Response.Response != nil {
		return r.HTTPStatusCode()
	}
	return 0
}

// code returns the store's own word for what went wrong.
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// passing says whether trying again may help.
func passing(err error) bool {
	var secret *secretError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &secret), errors.As(err, &certificate), errors.Is(err, ErrTooLarge),
		errors.Is(err, ErrExists), errors.Is(err, ErrNotFound), errors.Is(err, errShort):
		return false
	}
	switch s := status(err); s {
	case 0, http.StatusTooManyRequests, http.StatusRequestTimeout:
		return true
	case http.StatusConflict:
		// A race of conditional puts, or a delete under way.
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	case http.StatusBadRequest:
		switch code(err) {
		case "RequestTimeout", "BadDigest", "XAmzContentChecksumMismatch", "IncompleteBody":
			return true // the bytes were lost or damaged on their way
		}
		return false
	default:
		return s >= 500
	}
}

// exists says whether a conditional put was refused because something is
// there. Stores differ in how they say so.
func exists(err error) bool {
	switch status(err) {
	case http.StatusPreconditionFailed, http.StatusConflict, http.StatusNotModified:
		return true
	}
	return false
}

// explain says what went wrong, with which object, and what to try. Nothing
// secret is in it.
func (b *Bucket) explain(act, key string, tries int, err error) error {
	where := fmt.Sprintf("%s: %s %s", b.c.Name, act, b.at(key))
	if tries > 1 {
		where += fmt.Sprintf(" (%d tries)", tries)
	}
	var secret *secretError
	switch s := status(err); {
	case errors.As(err, &secret):
		return fmt.Errorf("%s: %w", where, secret)
	case errors.Is(err, ErrTooLarge), errors.Is(err, ErrExists), errors.Is(err, ErrNotFound), errors.Is(err, errShort):
		return fmt.Errorf("%s: %w", where, err)
	case code(err) == "NoSuchBucket":
		return fmt.Errorf("%s: the bucket %s does not exist; create it, or correct `bucket` and `endpoint`", where, b.c.Bucket)
	case s == http.StatusNotFound:
		return fmt.Errorf("%s: %w", where, ErrNotFound)
	case code(err) == "RequestTimeTooSkewed":
		return fmt.Errorf("%s: %w: this machine's clock and the store's differ too much; correct the clock (chronyc makestep)", where, ErrDenied)
	case s == http.StatusForbidden, s == http.StatusUnauthorized:
		return fmt.Errorf("%s: %w (%s); check access_key and secret_key, and that they may %s here. "+
			"Many stores say this also of an object that is missing, when the keys may not list the bucket", where, ErrDenied, b.words(err), act)
	case s == http.StatusMovedPermanently, s == http.StatusTemporaryRedirect:
		return fmt.Errorf("%s: the bucket is in another region (%s); correct `region` or `endpoint`", where, b.words(err))
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return fmt.Errorf("%s: %w: %s; check tls.ca_file, and that `endpoint` is the name in the store's certificate", where, ErrUnreachable, b.words(err))
	case s == 0 && !errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w: %s; check `endpoint`, and whether the store runs", where, ErrUnreachable, b.words(err))
	default:
		return fmt.Errorf("%s: the store answered %d %s", where, s, b.words(err))
	}
}

// words is the cause in the store's or the network's words, cut to a line.
func (b *Bucket) words(err error) string {
	var text string
	var api smithy.APIError
	var in *url.Error
	switch {
	case errors.As(err, &api):
		text = strings.TrimSuffix(api.ErrorCode()+": "+api.ErrorMessage(), ": ")
	case errors.As(err, &in):
		text = in.Err.Error() // without the address, which is in the error already
	default:
		text = err.Error()
	}
	b.mu.Lock()
	hidden := b.hidden
	b.mu.Unlock()
	for _, h := range hidden {
		text = strings.ReplaceAll(text, h, "****")
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 300 {
		text = text[:300] + "…"
	}
	return text
}
