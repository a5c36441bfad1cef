package stack

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"time"
)

// T is the part of testing.TB that the test helpers use.
type T interface {
	Helper()
	Name() string
	Logf(format string, args ...any)
	Skipf(format string, args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Failed() bool
	Cleanup(func())
	Context() context.Context
}

// installTimeout bounds what a test waits for a first installation.
const installTimeout = 20 * time.Minute

// Kind names what a test needs.
type Kind int

// The services that a test can need.
const (
	NeedKafka Kind = iota
	NeedClickHouse
	NeedS3
	NeedPostgres
)

// Need makes sure that services can run here, installing them first. When a
// program is missing that cannot be installed, the test is skipped on a
// developer's machine and fails when CI is set. Anything else that goes wrong
// fails the test.
func Need(t T, kinds ...Kind) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), installTimeout)
	defer cancel()
	for _, k := range kinds {
		var err error
		switch k {
		case NeedKafka:
			err = InstallKafka(ctx, "", os.Stderr)
		case NeedClickHouse:
			err = InstallClickHouse(ctx, os.Stderr)
		case NeedS3:
			err = InstallS3(ctx, "", os.Stderr)
		case NeedPostgres:
			err = InstallPostgres(ctx, "", os.Stderr)
		}
		judge(t, err)
	}
}

func judge(t T, err error) {
	t.Helper()
	var miss *MissingError
	switch {
	case err == nil:
	case errors.As(err, &miss) && os.Getenv("CI") == "":
		t.Skipf("needs a real service: %v", err)
	default:
		t.Fatalf("needs a real service: %v", err)
	}
}

// RunKafka is StartKafka for a test: Need's rule, closed at the end of the
// test, the end of the log shown when the test failed.
func RunKafka(t T, o KafkaOptions) *Kafka {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), installTimeout)
	defer cancel()
	judge(t, InstallKafka(ctx, o.Version, os.Stderr))
	if o.Progress == nil {
		o.Progress = testLog{t: t}
	}
	k, err := StartKafka(t.Context(), o)
	judge(t, err)
	atEnd(t, k.service, k)
	return k
}

// RunKafkaCluster is StartKafkaCluster for a test, as RunKafka is for Kafka.
func RunKafkaCluster(t T, o KafkaOptions, n int) *KafkaCluster {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), installTimeout)
	defer cancel()
	judge(t, InstallKafka(ctx, o.Version, os.Stderr))
	if o.Progress == nil {
		o.Progress = testLog{t: t}
	}
	c, err := StartKafkaCluster(t.Context(), o, n)
	judge(t, err)
	for _, k := range c.nodes {
		atEnd(t, k.service, k)
	}
	return c
}

// RunClickHouse is StartClickHouse for a test, as RunKafka is for Kafka.
func RunClickHouse(t T, o ClickHouseOptions) *ClickHouse {
	t.Helper()
	Need(t, NeedClickHouse)
	if o.Progress == nil {
		o.Progress = testLog{t: t}
	}
	c, err := StartClickHouse(t.Context(), o)
	judge(t, err)
	atEnd(t, c.service, c)
	return c
}

// RunS3 is StartS3 for a test, as RunKafka is for Kafka.
func RunS3(t T, o S3Options) *S3 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), installTimeout)
	defer cancel()
	judge(t, InstallS3(ctx, o.Kind, os.Stderr))
	if o.Progress == nil {
		o.Progress = testLog{t: t}
	}
	s, err := StartS3(t.Context(), o)
	judge(t, err)
	atEnd(t, s.service, s)
	return s
}

// RunPostgres is StartPostgres for a test, as RunKafka is for Kafka.
func RunPostgres(t T, o PostgresOptions) *Postgres {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), installTimeout)
	defer cancel()
	judge(t, InstallPostgres(ctx, o.Version, os.Stderr))
	if o.Progress == nil {
		o.Progress = testLog{t: t}
	}
	p, err := StartPostgres(t.Context(), o)
	judge(t, err)
	atEnd(t, p.service, p)
	return p
}

func atEnd(t T, s *service, whole io.Closer) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the last words of %s:\n%s", s.name, s.lastWords())
		}
		if err := whole.Close(); err != nil {
			t.Errorf("close %s: %v", s.name, err)
		}
	})
}

// testLog turns progress lines into test output.
type testLog struct{ t T }

var _ io.Writer = testLog{}

func (l testLog) Write(b []byte) (int, error) {
	l.t.Logf("%s", strings.TrimRight(string(b), "\n"))
	return len(b), nil
}
