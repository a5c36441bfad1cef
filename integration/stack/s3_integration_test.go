//go:build integration

package stack

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go"
)

func put(t *testing.T, s *S3, key, body string, sum [32]byte, change func(*s3.PutObjectInput)) error {
	t.Helper()
	in := &s3.PutObjectInput{
		Bucket: aws.String("archive"), Key: &key, Body: strings.NewReader(body),
		ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(sum[:])),
	}
	if change != nil {
		change(in)
	}
	_, err := s.Client().PutObject(t.Context(), in, func(o *s3.Options) { o.RetryMaxAttempts = 1 })
	return err
}

func get(t *testing.T, s *S3, key string) string {
	t.Helper()
	out, err := s.Client().GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("archive"), Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Body.Close()
	b, err := io.ReadAll(out.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func errorCode(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return fmt.Sprint(err)
}

// TestS3_RefusesWrongBytesAndASecondWriter holds over http and https: backups
// lean on both refusals.
func TestS3_RefusesWrongBytesAndASecondWriter(t *testing.T) {
	for _, secure := range []bool{false, true} {
		t.Run(fmt.Sprintf("tls=%t", secure), func(t *testing.T) {
			s := RunS3(t, S3Options{TLS: secure})
			if strings.HasPrefix(s.Endpoint(), "https://") != secure || (s.CAFile() != "") != secure {
				t.Fatalf("endpoint %s, authority %q", s.Endpoint(), s.CAFile())
			}
			if err := errors.Join(s.CreateBucket(t.Context(), "archive"), s.CreateBucket(t.Context(), "archive")); err != nil {
				t.Fatal(err)
			}
			right, wrong := sha256.Sum256([]byte("first")), sha256.Sum256([]byte("else"))
			err := put(t, s, "a/one", "first", wrong, nil)
			if code := errorCode(err); code != "BadDigest" && code != "XAmzContentChecksumMismatch" {
				t.Fatalf("wrong SHA-256: %v", err)
			}
			once := func(in *s3.PutObjectInput) { in.IfNoneMatch = aws.String("*") }
			if err := put(t, s, "a/one", "first", right, once); err != nil {
				t.Fatal(err)
			}
			second := sha256.Sum256([]byte("second"))
			if code := errorCode(put(t, s, "a/one", "second", second, once)); code != "PreconditionFailed" {
				t.Fatalf("second writer: %s", code)
			}
			if got := get(t, s, "a/one"); got != "first" {
				t.Fatalf("the object holds %q", got)
			}
		})
	}
}

func TestS3_KeepsObjectsOverKillAndTellsNoSecret(t *testing.T) {
	s := RunS3(t, S3Options{})
	if err := s.CreateBucket(t.Context(), "archive"); err != nil {
		t.Fatal(err)
	}
	body := []byte("kept")
	if err := s.PutObject(t.Context(), "archive", "x/y", body); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s %s: resident %d MB", s.Kind(), s.Version(), residentMB(t, s.PID()))
	words, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", s.PID()))
	if err != nil || bytes.Contains(words, []byte(s.SecretKey())) || bytes.Contains(words, []byte(s.AccessKey())) {
		t.Fatalf("arguments %q, %v", words, err)
	}
	endpoint := s.Endpoint()
	if err := errors.Join(s.Kill(), s.Restart(t.Context())); err != nil {
		t.Fatal(err)
	}
	if s.Endpoint() != endpoint || get(t, s, "x/y") != "kept" {
		t.Fatalf("%s holds %q", s.Endpoint(), get(t, s, "x/y"))
	}
	if s.Kind() != DefaultS3 {
		return // others keep objects in a form of their own
	}
	file := filepath.Join(s.DataDir(), "archive", "x", "y")
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, body) {
		t.Fatalf("the file holds %q, %v", got, err)
	}
	if err := os.WriteFile(file, []byte("kepd"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, "x/y"); got != "kepd" {
		t.Fatalf("after a flipped byte it serves %q", got)
	}
}
