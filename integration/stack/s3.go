package stack

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// S3Region is the region that every S3 of the rig says it is in.
const S3Region = "us-east-1"

// S3Options describes one S3 server. The zero value is a versitygw on a free
// port, in a temporary folder.
type S3Options struct {
	Kind string // S3Kinds; default $HOLDFAST_S3, then DefaultS3
	Name string // in messages and file names; default "s3"
	Dir  string // data and configuration; default a temporary folder
	Log  string // default NAME.log in Dir
	Port int    // 0: a free one, kept over restarts

	// TLS serves https under an authority made for this server alone; clients
	// need CAFile.
	TLS bool
	// Versioning lets buckets keep versions and locked objects, which
	// versitygw does only when it is given a folder for them.
	Versioning bool

	Progress io.Writer // plain lines; nil: silence
}

// S3 is one S3 server with one user, who owns everything.
type S3 struct {
	*service
	pin            goPin
	port           int
	access, secret string
	caFile         string // empty without TLS
	client         *s3.Client
}

// StartS3 installs the server if needed, starts it and returns when it takes
// the user's requests. Close it after use.
func StartS3(ctx context.Context, o S3Options) (*S3, error) {
	pin, err := findS3(o.Kind)
	if err != nil {
		return nil, err
	}
	program, err := installS3(ctx, o.Progress, pin)
	if err != nil {
		return nil, err
	}
	launcher, err := installLauncher(ctx, o.Progress)
	if err != nil {
		return nil, err
	}
	if o.Name == "" {
		o.Name = "s3"
	}
	base, err := newService(o.Name, o.Dir, o.Log, o.Progress)
	if err != nil {
		return nil, err
	}
	s := &S3{service: base, pin: pin, access: "rig" + newSecret(6), secret: newSecret(20)}
	if err := s.prepare(o, program, launcher); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.listens = []int{s.port}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// InstallS3 brings one kind of server ("" for the default), and what it needs
// to run, onto this machine without running it. It is built from source, which
// takes minutes the first time.
func InstallS3(ctx context.Context, kind string, progress io.Writer) error {
	pin, err := findS3(kind)
	if err != nil {
		return err
	}
	if _, err := installLauncher(ctx, progress); err != nil {
		return err
	}
	_, err = installS3(ctx, progress, pin)
	return err
}

func installS3(ctx context.Context, progress io.Writer, pin goPin) (string, error) {
	dir, err := install(ctx, progress, pin.name+"-"+pin.version, func(dir string) error {
		return fetchGo(ctx, progress, pin, dir)
	})
	return filepath.Join(dir, pin.name), err
}

// newSecret makes n random bytes into text. It begins with no dash and needs
// no quoting.
func newSecret(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, by its own contract
	return hex.EncodeToString(b)
}

func (s *S3) prepare(o S3Options, program, launcher string) error {
	var err error
	if s.port, err = s.service.port(o.Port); err != nil {
		return err
	}
	folders := []string{s.DataDir()}
	versions := filepath.Join(s.dir, "versions")
	if o.Versioning {
		folders = append(folders, versions)
	}
	for _, f := range folders {
		if err := os.MkdirAll(f, 0o755); err != nil {
			return fmt.Errorf("make the data folder of %s: %w", s.name, err)
		}
	}
	certs := filepath.Join(s.dir, "certs")
	if o.TLS {
		if s.caFile, err = writeCertificates(certs); err != nil {
			return fmt.Errorf("make the certificates of %s: %w", s.name, err)
		}
	}
	s.command = command{launcher: launcher, program: program, dir: s.dir, log: s.log}
	if s.pin.name == "minio" {
		s.command.args = []string{"server", "--quiet", "--address", loopback(s.port), "--certs-dir", certs, s.DataDir()}
		s.command.env = []string{"MINIO_ROOT_USER=" + s.access, "MINIO_ROOT_PASSWORD=" + s.secret, "MINIO_BROWSER=off"}
	} else {
		s.command.args = []string{"--port", loopback(s.port), "--region", S3Region, "--quiet"}
		if o.TLS {
			s.command.args = append(s.command.args, "--cert", filepath.Join(certs, "public.crt"), "--key", filepath.Join(certs, "private.key"))
		}
		s.command.args = append(s.command.args, "posix")
		if o.Versioning {
			s.command.args = append(s.command.args, "--versioning-dir", versions)
		}
		s.command.args = append(s.command.args, s.DataDir())
		s.command.env = []string{"ROOT_ACCESS_KEY_ID=" + s.access, "ROOT_SECRET_ACCESS_KEY=" + s.secret}
	}
	web := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	if o.TLS {
		pem, err := os.ReadFile(s.caFile)
		if err != nil {
			return fmt.Errorf("read the authority of %s: %w", s.name, err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(pem)
		web.Transport = &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool}}
	}
	s.client = s3.New(s3.Options{
		BaseEndpoint: aws.String(s.Endpoint()), Region: S3Region, UsePathStyle: true, HTTPClient: web,
		Credentials: credentials.NewStaticCredentialsProvider(s.access, s.secret, ""),
	})
	s.ready = s.serves
	return nil
}

// serves asks with our own keys: a stranger on the port would refuse them.
func (s *S3) serves(ctx context.Context) error {
	_, err := s.client.ListBuckets(ctx, &s3.ListBucketsInput{}, func(o *s3.Options) { o.RetryMaxAttempts = 1 })
	return err
}

// CreateBucket makes a bucket; one that the user has already is no error.
func (s *S3) CreateBucket(ctx context.Context, name string) error {
	_, err := s.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &name})
	if err == nil {
		return nil
	}
	if _, err := s.client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name}); err != nil {
		return fmt.Errorf("make the bucket %s on %s: %w", name, s.name, err)
	}
	return nil
}

// PutObject stores one object, replacing what had its key.
func (s *S3) PutObject(ctx context.Context, bucket, key string, body []byte) error {
	if _, err := s.client.PutObject(ctx, &s3.PutObjectInput{Bucket: &bucket, Key: &key, Body: bytes.NewReader(body)}); err != nil {
		return fmt.Errorf("store %s/%s on %s: %w", bucket, key, s.name, err)
	}
	return nil
}

// Client speaks to the server as its user, with the SDK's usual retries.
func (s *S3) Client() *s3.Client { return s.client }

// Endpoint is the server's URL, without a bucket.
func (s *S3) Endpoint() string {
	if s.caFile != "" {
		return "https://" + s.Address()
	}
	return "http://" + s.Address()
}

// Address is the server's host:port.
func (s *S3) Address() string { return loopback(s.port) }

// AccessKey names the user.
func (s *S3) AccessKey() string { return s.access }

// SecretKey is the user's secret, random for each S3.
func (s *S3) SecretKey() string { return s.secret }

// CAFile holds the authority of a server with TLS, and is empty otherwise.
func (s *S3) CAFile() string { return s.caFile }

// DataDir is where the objects lie: on versitygw as the plain files
// BUCKET/KEY, so that a test can lose one or flip its bytes; on MinIO in a
// form of its own.
func (s *S3) DataDir() string { return filepath.Join(s.dir, "data") }

// Kind is "versitygw" or "minio".
func (s *S3) Kind() string { return s.pin.name }

// Version is the version that runs.
func (s *S3) Version() string { return s.pin.version }
