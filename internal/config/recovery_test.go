package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"

	"github.com/holdfast-dr/holdfast/internal/schedule"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// ladder is the first rung of adoption: one region, one voter, no roles and no
// Kafka; backups and drills only.
const ladder = `cluster: lab
nodes: {a1: {region: a, peer: "127.0.0.1:7421"}}
regions:
  a:
    clickhouse: {addresses: ["127.0.0.1:9000"], backup_collection: holdfast}
    postgres: {dsn: "file:/etc/holdfast/postgres.dsn"}
    repository:
      endpoint: http://127.0.0.1:9001
      bucket: holdfast
      access_key: "env:S3_ACCESS_KEY"
      secret_key: "env:S3_SECRET_KEY"
      recipient: age1c55a8qjm6lm2f47lnu6ypd7uy0u9s70nse72c7tgmjgckjfvyfjsck7vez
      dedupe_key: "file:/etc/holdfast/dedupe.key"
backup: {schedule: "17 * * * *"}
drill:
  schedule: "0 4 * * 0"
  region: a
  identity: "file:/etc/holdfast/drill.age"
  target:
    clickhouse: {addresses: ["127.0.0.1:9002"], backup_collection: {a: holdfast}}
    postgres: {bin: /usr/lib/postgresql/14/bin, directory: /var/lib/holdfast-drill}
`

func parse(t *testing.T, text string) *Fleet {
	t.Helper()
	f, err := Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestParse_OneRegionWithBackupsAndDrillsAlone(t *testing.T) {
	f := parse(t, ladder)
	if err := f.Check(); err != nil {
		t.Errorf("what Parse accepted, Check refuses: %v", err)
	}
	if b := f.Backup; b.CatchUp != schedule.Latest || b.Timeout != 2*time.Hour || b.Schedule.String() != "17 * * * *" {
		t.Errorf("backup: %+v", b)
	}
	if d := f.Drill; d.CatchUp != schedule.Latest || d.Timeout != 4*time.Hour || d.Target.ClickHouse.DatabasePrefix != "holdfast_drill" || d.Target.ClickHouse.User != "default" {
		t.Errorf("drill: %+v", d)
	}
	a := f.Regions["a"]
	if r := a.Repository; r.Region != "us-east-1" || !r.PathStyle || r.RateLimit != 0 {
		t.Errorf("repository: %+v", r)
	}
	if !slices.Equal(a.ClickHouse.Databases, []string{"default"}) {
		t.Errorf("databases: %v", a.ClickHouse.Databases)
	}
	if got := f.BackupEngines("a"); !slices.Equal(got, []string{"clickhouse", "postgres"}) {
		t.Errorf("engines: %v", got)
	}
}

func TestParse_PathStyleFollowsTheEndpointUntilItIsWritten(t *testing.T) {
	for change, want := range map[string]bool{
		"      endpoint: http://127.0.0.1:9001\n": true,
		"":                         false,
		"      path_style: true\n": true,
		"      endpoint: https://s3.example\n      path_style: false\n":               false,
		"      endpoint: https://s3.example\n      path_style: true\n      tls: {}\n": true,
	} {
		f := parse(t, strings.Replace(ladder, "      endpoint: http://127.0.0.1:9001\n", change, 1))
		if got := f.Regions["a"].Repository.PathStyle; got != want {
			t.Errorf("%q: path_style is %v", change, got)
		}
	}
}

func TestFleet_SaysWhatIsBackedUpAndDrilled(t *testing.T) {
	f, err := Load(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	all, east := []topology.Region{"eu-west", "us-east"}, []topology.Region{"us-east"}
	if got := f.BackupRegions(); !slices.Equal(got, all) {
		t.Errorf("backed up: %v", got)
	}
	if got := f.BackupEngines("us-east"); !slices.Equal(got, []string{"kafka", "clickhouse", "postgres"}) {
		t.Errorf("in the order of a set: %v", got)
	}
	if got := f.BackupEngines("eu-west"); !slices.Equal(got, []string{"kafka", "clickhouse"}) {
		t.Errorf("what the region has: %v", got)
	}
	f.Backup.Engines, f.Backup.Regions, f.Drill.Of = []Engine{"postgres", "kafka"}, east, nil
	if got := f.BackupEngines("us-east"); !slices.Equal(got, []string{"kafka", "postgres"}) {
		t.Errorf("of these: %v", got)
	}
	if got := f.BackupRegions(); !slices.Equal(got, east) {
		t.Errorf("these regions: %v", got)
	}
	if got := f.DrillOf(); !slices.Equal(got, all) {
		t.Errorf("drills of all that have a repository: %v", got)
	}
	if f.Drill.Of = east; !slices.Equal(f.DrillOf(), east) {
		t.Errorf("drills of these: %v", f.DrillOf())
	}
	f.Backup, f.Drill = nil, nil
	if f.BackupRegions() != nil || f.DrillOf() != nil {
		t.Error("without a section nothing is backed up or drilled")
	}
	if got := f.BackupEngines("nowhere"); got != nil {
		t.Errorf("a region that is not there: %v", got)
	}
}

func TestParse_RefusedPrivateKeyIsNotRepeated(t *testing.T) {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{id.String(), strings.ToLower(id.String()), id.Recipient().String() + "x" + id.String()} {
		_, err := Parse("f", []byte(strings.Replace(ladder, "age1c55a8qjm6lm2f47lnu6ypd7uy0u9s70nse72c7tgmjgckjfvyfjsck7vez", key, 1)))
		if err == nil || !strings.Contains(err.Error(), "recipient") || strings.Contains(strings.ToUpper(err.Error()), id.String()[:30]) {
			t.Errorf("got %v", err)
		}
	}
}

func TestAgreed_LeavesOutWhatBackupsNeedOnOneHost(t *testing.T) {
	f := parse(t, ladder)
	agreed := f.Agreed()
	for path, want := range map[string]string{
		"backup.schedule": "17 * * * *", "backup.catch_up": "latest", "drill.region": "a", "regions.a.repository.bucket": "holdfast", "regions.a.repository.path_style": "true",
		"regions.a.clickhouse.databases[0]": "default", "drill.target.clickhouse.addresses[0]": "127.0.0.1:9002", "drill.target.clickhouse.backup_collection.a": "holdfast",
	} {
		if agreed[path] != want {
			t.Errorf("%s is %q, want %q", path, agreed[path], want)
		}
	}
	for path := range agreed {
		for _, own := range []string{"identity", "target.postgres", "_key", "dsn", "tls", "user"} {
			if strings.HasPrefix(path, "drill") && strings.Contains(path, own) || strings.Contains(path, "repository") && strings.Contains(path, own) {
				t.Errorf("%s is nobody else's business", path)
			}
		}
	}
	for _, change := range []string{"17 * * * *", "bucket: holdfast", "region: a\n", "age1c55a8qjm6lm2f47lnu6ypd7uy0u9s70nse72c7tgmjgckjfvyfjsck7vez"} {
		other := map[string]string{"17 * * * *": "18 * * * *", "bucket: holdfast": "bucket: other", "region: a\n": "region: a\n  catch_up: skip\n"}[change]
		if other == "" {
			id, err := age.GenerateX25519Identity()
			if err != nil {
				t.Fatal(err)
			}
			other = id.Recipient().String()
		}
		if parse(t, strings.Replace(ladder, change, other, 1)).Digest() == f.Digest() {
			t.Errorf("%q instead of %q does not change the digest", other, change)
		}
	}
}

func TestShow_NoReferenceOfABackup(t *testing.T) {
	f, err := Load(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	for _, show := range []func() ([]byte, error){f.YAML, f.JSON} {
		shown, err := show()
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"file:/", "env:", "S3_SECRET_KEY", "dedupe.key", "drill.age", "postgres.dsn"} {
			if strings.Contains(string(shown), secret) {
				t.Errorf("shows %s:\n%s", secret, shown)
			}
		}
		for _, want := range []string{"17 * * * *", "latest", "holdfast-us-east", "100MB/s", stars} {
			if !strings.Contains(string(shown), want) {
				t.Errorf("lacks %s:\n%s", want, shown)
			}
		}
	}
}

// host is a ladder whose files are all on this host.
type host struct {
	t   *testing.T
	dir string
}

func (h host) write(name, text string, mode os.FileMode) {
	h.t.Helper()
	path := filepath.Join(h.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		h.t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		h.t.Fatal(err)
	}
}

// said is what CheckHost says of backups and drills.
func (h host) said(text string, node topology.Node) string {
	h.t.Helper()
	err := parse(h.t, text).CheckHost(node)
	if err == nil {
		return ""
	}
	return strings.Join(slices.DeleteFunc(strings.Split(err.Error(), "\n"), func(line string) bool {
		return strings.Contains(line, ": nodes.") || strings.Contains(line, "holdfast certs init")
	}), "\n")
}

func TestCheckHost_LooksAtWhatBackupsAndDrillsNeed(t *testing.T) {
	t.Setenv("S3_ACCESS_KEY", "a")
	t.Setenv("S3_SECRET_KEY", "s")
	h := host{t, t.TempDir()}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	h.write("dedupe.key", strings.Repeat("0f", 32)+"\n", 0o600)
	h.write("postgres.dsn", "host=127.0.0.1\n", 0o640)
	h.write("drill.age", fmt.Sprintf("# public key: %s\n%s\n", id.Recipient(), id), 0o600)
	h.write("postgres", "#!/bin/sh\n", 0o755)
	text := strings.NewReplacer("/etc/holdfast", h.dir, "/usr/lib/postgresql/14/bin", h.dir, "age1c55a8qjm6lm2f47lnu6ypd7uy0u9s70nse72c7tgmjgckjfvyfjsck7vez", id.Recipient().String()).Replace(ladder)
	if said := h.said(text, "a1"); said != "" {
		t.Fatalf("all is there:\n%s", said)
	}

	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		do   func()
		want string
	}{
		{"open key", func() { h.write("dedupe.key", strings.Repeat("0f", 32), 0o644) }, "regions.a.repository.dedupe_key: " + h.dir + "/dedupe.key is open to every user of this host (mode 0644)"},
		{"short key", func() { h.write("dedupe.key", "0123456789", 0o600) }, "has 10 characters, fewer than 32"},
		{"good key", func() { h.write("dedupe.key", strings.Repeat("0f", 32), 0o600) }, ""},
		{"another identity", func() { h.write("drill.age", other.String(), 0o600) }, "cannot read what is encrypted to the recipient of region a"},
		{"no identity", func() { h.write("drill.age", "AGE-SECRET-KEY-1QQQ", 0o600) }, "drill.identity: holds no age identity"},
		{"open identity", func() { h.write("drill.age", id.String(), 0o604) }, "drill.age is open to every user"},
		{"both identities", func() { h.write("drill.age", other.String()+"\n"+id.String(), 0o600) }, ""},
		{"not a program", func() { h.write("postgres", "", 0o644) }, "drill.target.postgres.bin: " + h.dir + "/postgres is not a program"},
		{"no program", func() { _ = os.Remove(filepath.Join(h.dir, "postgres")) }, "drill.target.postgres.bin: cannot be read"},
		{"a program", func() { h.write("postgres", "", 0o700) }, ""},
		{"no secret", func() { t.Setenv("S3_SECRET_KEY", "") }, "regions.a.repository.secret_key: resolve secret env:S3_SECRET_KEY"},
		{"no dsn", func() { t.Setenv("S3_SECRET_KEY", "s"); _ = os.Remove(filepath.Join(h.dir, "postgres.dsn")) }, "regions.a.postgres.dsn: resolve secret"},
	} {
		c.do()
		said := h.said(text, "a1")
		if c.want == "" && said != "" || !strings.Contains(said, c.want) || strings.Count(said, "f:") > 1 {
			t.Errorf("%s: want %q alone, got:\n%s", c.name, c.want, said)
		}
		for _, secret := range []string{id.String()[:25], other.String()[:25], "KEY-1QQQ", "0f0f0f", "0123456789"} {
			if strings.Contains(said, secret) {
				t.Errorf("%s: shows a secret:\n%s", c.name, said)
			}
		}
	}
	h.write("postgres.dsn", "host=127.0.0.1\n", 0o640)
	if said := h.said(strings.Replace(text, "bin: "+h.dir, "user: nobody-of-this-host, bin: "+h.dir, 1), "a1"); !strings.Contains(said, "is not a user of this host") {
		t.Errorf("a user who is not there: %s", said)
	}
}

func TestCheckHost_OnlyTheNodeThatDrillsNeedsTheIdentity(t *testing.T) {
	for _, name := range []string{"CLICKHOUSE_PASSWORD", "CLICKHOUSE_DRILL_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY"} {
		t.Setenv(name, "x")
	}
	h := host{t, t.TempDir()}
	text := sample(t)
	east, west, witness := h.said(text, "us-east-1"), h.said(text, "eu-west-1"), h.said(text, "witness-1")
	has := func(said, node string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(said, want) {
				t.Errorf("%s does not miss %s:\n%s", node, want, said)
			}
		}
	}
	lacks := func(said, node string, others ...string) {
		t.Helper()
		for _, other := range others {
			if strings.Contains(said, other) {
				t.Errorf("%s asks for %s:\n%s", node, other, said)
			}
		}
	}
	has(east, "us-east-1", "us-east.postgres.dsn", "us-east.repository.tls.ca", "us-east.repository.dedupe_key", "us-east.repository.recipient: is the one of the sample")
	lacks(east, "us-east-1", "drill", "eu-west.repository")
	has(west, "eu-west-1", "drill.identity", "drill.target.clickhouse.tls", "us-east.repository.tls.ca", "eu-west.repository.dedupe_key")
	lacks(west, "eu-west-1", "us-east.postgres.dsn", "us-east.repository.dedupe_key")
	lacks(witness, "witness-1", "drill", "repository", "postgres")
}
