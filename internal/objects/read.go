package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/holdfast-dr/holdfast/internal/retry"
)

// Info is what a store says about an object.
type Info struct {
	Bytes    int64
	Modified time.Time
	ETag     string
}

// Get reads a whole object of at most max bytes.
func (b *Bucket) Get(ctx context.Context, key string, max int64) (body []byte, err error) {
	err = b.again(ctx, "get", key, func(ctx context.Context) error {
		body, err = b.get(ctx, key, max)
		return err
	})
	return body, err
}

func (b *Bucket) get(ctx context.Context, key string, max int64) ([]byte, error) {
	out, err := b.client.GetObject(ctx, &s3.GetObjectInput{Bucket: &b.c.Bucket, Key: b.key(key)})
	if err != nil {
		return nil, err
	}
	defer out.Body.Close()
	size := aws.ToInt64(out.ContentLength)
	if size > max {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLarge, size, max)
	}
	if out.ContentLength != nil {
		body := make([]byte, size)
		_, err := io.ReadFull(out.Body, body)
		return body, err
	}
	body, err := io.ReadAll(io.LimitReader(out.Body, max+1))
	if int64(len(body)) > max {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, max)
	}
	return body, err
}

// Head looks at an object.
func (b *Bucket) Head(ctx context.Context, key string) (info Info, err error) {
	err = b.again(ctx, "look at", key, func(ctx context.Context) error {
		out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.c.Bucket, Key: b.key(key)})
		if err != nil {
			return err
		}
		info = Info{Bytes: aws.ToInt64(out.ContentLength), Modified: aws.ToTime(out.LastModified), ETag: aws.ToString(out.ETag)}
		return nil
	})
	return info, err
}

// Now is the time by the store's clock, to the second: what decides about the
// age of objects must not rest on clocks that differ.
func (b *Bucket) Now(ctx context.Context) (now time.Time, err error) {
	err = b.again(ctx, "read the clock of", probeKey, func(ctx context.Context) error {
		out, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.c.Bucket, Key: b.key(probeKey)})
		var header http.Header
		var refused *smithyhttp.ResponseError
		switch {
		case err == nil:
			header = headerOf(out.ResultMetadata)
		case status(err) == http.StatusNotFound && errors.As(err, &refused):
			header = refused.Response.Header // an answer has a date, whatever it says
		default:
			return err
		}
		if now, err = http.ParseTime(header.Get("Date")); err != nil {
			return fmt.Errorf("%w: its answer has no date", errShort)
		}
		return nil
	})
	return now, err
}

func headerOf(m middleware.Metadata) http.Header {
	if r, ok := awsmiddleware.GetRawResponse(m).(*smithyhttp.Response); ok && r != nil {
		return r.Header
	}
	return http.Header{}
}

// Open reads an object from its start. The reader goes on where a connection
// broke, in the same object. It is for one goroutine, and must be closed.
func (b *Bucket) Open(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	s := &stream{b: b, ctx: ctx, key: key, started: time.Now()}
	err := b.again(ctx, "get", key, s.open)
	if err != nil {
		return nil, Info{}, err
	}
	return s, s.info, nil
}

// resumesMax bounds how often one stream is continued, beside once for each
// resumeBytes that came: a store that stalls after a few bytes of each answer
// is given up, and a long object may break more often than a short one.
const (
	resumesMax  = 6
	resumeBytes = 1 << 20
)

type stream struct {
	b       *Bucket
	ctx     context.Context //nolint:containedctx // a reader has no other way to be told
	key     string
	info    Info
	at      int64
	resumes int64
	body    io.ReadCloser
	started time.Time
}

// open asks for the rest of the object.
func (s *stream) open(ctx context.Context) error {
	in := &s3.GetObjectInput{Bucket: &s.b.c.Bucket, Key: s.b.key(s.key)}
	if s.at > 0 {
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", s.at))
		if s.info.ETag != "" {
			in.IfMatch = &s.info.ETag
		}
	}
	out, err := s.b.client.GetObject(ctx, in)
	if err != nil {
		return err
	}
	if s.at > 0 {
		want := fmt.Sprintf("bytes %d-%d/%d", s.at, s.info.Bytes-1, s.info.Bytes)
		if got := aws.ToString(out.ContentRange); !strings.EqualFold(got, want) {
			out.Body.Close()
			return fmt.Errorf("%w: asked to go on, it sent %q and not %q", errShort, got, want)
		}
	} else {
		s.info = Info{Bytes: aws.ToInt64(out.ContentLength), Modified: aws.ToTime(out.LastModified), ETag: aws.ToString(out.ETag)}
	}
	s.body = out.Body
	return nil
}

func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	waits := retry.New(100*time.Millisecond, 5*time.Second)
	for {
		n, err := s.body.Read(p)
		s.at += int64(n)
		switch {
		case n > 0:
			return n, nil // what err says is said again by the next read
		case errors.Is(err, io.EOF) && s.at == s.info.Bytes:
			return 0, io.EOF
		case err == nil:
			continue
		case s.ctx.Err() != nil:
			return 0, fmt.Errorf("%s: get %s: %w", s.b.c.Name, s.b.at(s.key), context.Cause(s.ctx))
		case s.at >= s.info.Bytes || s.resumes >= resumesMax+s.at/resumeBytes:
			return 0, s.b.explain("get", s.key, int(s.resumes)+1, err)
		}
		s.resumes++
		s.body.Close()
		if err := waits.Wait(s.ctx); err != nil {
			return 0, err
		}
		if err := s.b.again(s.ctx, "go on reading", s.key, s.open); err != nil {
			s.body = http.NoBody
			return 0, err
		}
	}
}

func (s *stream) Close() error { return s.body.Close() }
