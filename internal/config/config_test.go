package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the expected problems into testdata")

const samplePath = "../../deploy/holdfast.sample.yaml"

func sample(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const small = `cluster: lab
nodes: {a1: {region: a, peer: "127.0.0.1:7421"}}
regions: {a: {}}
`

func TestLoad_SampleHasEveryKey(t *testing.T) {
	f, err := Load(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	written := map[string]bool{}
	for path := range f.where {
		written[general(path)] = true
	}
	for _, k := range keys {
		if !written[k] {
			t.Errorf("the sample does not show %s", k)
		}
	}
}

func TestLoad_SampleComments_TellTheDefaults(t *testing.T) {
	f, err := Load(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(sample(t), "\n")
	var bare Fleet
	bare.setDefaults()
	if f.Timing != bare.Timing {
		t.Error("the sample's timing is not the default, and it says so")
	}
	var node Node
	node.setDefaults()
	if n := f.Nodes["us-east-1"]; n.Data != node.Data || n.Socket != node.Socket || n.TLS != node.TLS {
		t.Error("the sample's node paths are not the defaults")
	}
	var role Role
	role.setDefaults()
	if r := f.Roles["ingestion"]; r.LB != role.LB || r.FenceWithin != role.FenceWithin || r.AcceptLoss != role.AcceptLoss {
		t.Error("the sample's role numbers are not the defaults")
	}
	var b Backup
	b.setDefaults()
	var d Drill
	d.setDefaults()
	var target DrillClickHouse
	target.setDefaults()
	var repository Repository
	repository.setDefaults()
	if f.Backup.CatchUp != b.CatchUp || f.Backup.Timeout != b.Timeout || f.Drill.CatchUp != d.CatchUp || f.Drill.Timeout != d.Timeout {
		t.Error("the sample's backup and drill are not the defaults")
	}
	if r := f.Regions["us-east"].Repository; r.Region != repository.Region || !r.PathStyle || f.Drill.Target.ClickHouse.DatabasePrefix != target.DatabasePrefix {
		t.Error("the sample's repository or drill target is not the default")
	}
	if n := strings.Count(strings.Join(lines, "\n"), "(default"); n < 15 {
		t.Errorf("only %d defaults are marked", n)
	}
}

func TestParse_SmallestFleetIsOneRegionOneVoterNoRoles(t *testing.T) {
	f, err := Parse("f", []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	if n, ok := f.NodeOf("a"); !ok || n != "a1" {
		t.Errorf("the node of region a: %v %v", n, ok)
	}
	if f.Mode != Active || f.Timing.Lease.TTL != 16*time.Second || f.Nodes["a1"].Listen != "127.0.0.1:7421" || f.Nodes["a1"].Data != "/var/lib/holdfast" {
		t.Errorf("defaults are missing: %+v", f)
	}
	if _, err := f.Node("b1"); err == nil || !strings.Contains(err.Error(), "a1") {
		t.Errorf("an unknown node must be answered with the known ones: %v", err)
	}
	if err := f.Check(); err != nil {
		t.Errorf("what Parse accepted, Check refuses: %v", err)
	}
}

func TestParse_AddressesNeedNoQuotesWithinBraces(t *testing.T) {
	for text, want := range map[string]string{
		`a: {kafka: {brokers: [k1.a:9092, k2.a:9093]}}`:    "k1.a:9092 k2.a:9093",
		`a: {kafka: {brokers: [127.0.0.1:9092]}}`:          "127.0.0.1:9092",
		`a: {kafka: {brokers: ["k1.a:9092", 'k2.a:1']}}`:   "k1.a:9092 k2.a:1",
		"a:\n    kafka: {brokers: [k1.a:9092, k2.a:9093]}": "k1.a:9092 k2.a:9093",
	} {
		f, err := Parse("f", []byte("cluster: c\nnodes: {a1: {region: a, peer: \"127.0.0.1:7421\"}}\nregions:\n  "+text+"\n"))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := strings.Join(f.Regions["a"].Kafka.Brokers, " "); got != want {
			t.Errorf("%s: %s", text, got)
		}
	}
	if _, err := Parse("f", []byte("cluster: c\nnodes: {a1: {region: a, peer: {host: 9092}}}\nregions: {a: {}}\n")); err == nil || !strings.Contains(err.Error(), "keys with values") {
		t.Errorf("a real mapping: %v", err)
	}
}

// TestParse_SaysWhatIsWrong runs the stories in testdata: a file, and all that
// is said about it. -update writes what is said; a person reviews the diff.
func TestParse_SaysWhatIsWrong(t *testing.T) {
	stories, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(stories) < 10 {
		t.Fatalf("found %d stories (%v)", len(stories), err)
	}
	for _, name := range stories {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if len(ar.Files) != 2 {
				t.Fatal("want two files: holdfast.yaml and said")
			}
			_, err = Parse("holdfast.yaml", ar.Files[0].Data)
			var problems Problems
			if !errors.As(err, &problems) {
				t.Fatalf("want problems, got %v", err)
			}
			said := problems.Error() + "\n"
			if *update {
				ar.Files[1].Data = []byte(said)
				if err := os.WriteFile(name, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := string(ar.Files[1].Data); said != want {
				t.Errorf("said:\n%s\nwant:\n%s", said, want)
			}
			for _, p := range problems {
				if p.Path != "" && p.Line == 0 && strings.Contains(p.Path, ".") {
					t.Errorf("no place for %s", p.Path)
				}
			}
		})
	}
}

func TestParse_ReportsAllProblemsAtOnce(t *testing.T) {
	text := strings.NewReplacer("renew: 2s", "renew: 6s", "fall: 2", "fall: 4", "region: eu-west\n", "region: us-east\n", "initial: us-east # who", "initial: us-esat # who").Replace(sample(t))
	_, err := Parse("f", []byte(text))
	var problems Problems
	if !errors.As(err, &problems) {
		t.Fatal(err)
	}
	for _, want := range []string{"second node for region us-east", "no node serves it", "did you mean us-east?", "ttl − margin", "timing.lease.margin"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("lacks %q:\n%v", want, err)
		}
	}
	if !slices.IsSortedFunc(problems, func(a, b Problem) int { return a.Line - b.Line }) {
		t.Error("problems are not in the order of their lines")
	}
}

func TestParse_RefusesToAutomateWithTwoDomains(t *testing.T) {
	text := sample(t)
	text = text[:strings.Index(text, "  witness-1:")] + text[strings.Index(text, "regions:"):]
	if _, err := Parse("f", []byte(text)); err != nil {
		t.Fatalf("two regions that hold are a valid fleet: %v", err)
	}
	auto := strings.NewReplacer("auto: false", "auto: true", "on_quorum_loss: hold", "on_quorum_loss: demote").Replace(text)
	if _, err := Parse("f", []byte(auto)); err == nil || !strings.Contains(err.Error(), "three failure domains") {
		t.Errorf("auto with two failure domains: %v", err)
	}
	demote := strings.Replace(text, "on_quorum_loss: hold", "on_quorum_loss: demote", 1)
	if _, err := Parse("f", []byte(demote)); err == nil || !strings.Contains(err.Error(), "three failure domains") {
		t.Errorf("demote with two failure domains: %v", err)
	}
}

func TestParse_DerivesTheAnswerToQuorumLoss(t *testing.T) {
	text := strings.Replace(sample(t), "    on_quorum_loss: hold\n", "", 1)
	f, err := Parse("f", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Roles["ingestion"].OnQuorumLoss; got != Hold {
		t.Errorf("auto: false gives %q", got)
	}
	f, err = Parse("f", []byte(strings.Replace(text, "auto: false", "auto: true", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Roles["ingestion"].OnQuorumLoss; got != Demote {
		t.Errorf("auto: true gives %q", got)
	}
}

func TestParse_WrittenZeroWinsOverDefault(t *testing.T) {
	f, err := Parse("f", []byte(strings.Replace(sample(t), "fence_within: 90s", "fence_within: 0s", 1)))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Roles["ingestion"].FenceWithin; got != 0 {
		t.Errorf("fence_within: 0s gives %s", got)
	}
	if got := f.Roles["query"].FenceWithin; got != 90*time.Second {
		t.Errorf("fence_within left out gives %s", got)
	}
}

func TestDial_FollowsVia(t *testing.T) {
	f, err := Load(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	const broker = "kafka-1.us-east.example:9093"
	if got := f.Nodes["eu-west-1"].Dial(broker); got != "10.8.0.1:19093" {
		t.Errorf("got %s", got)
	}
	if got := f.Nodes["us-east-1"].Dial(broker); got != broker {
		t.Errorf("got %s", got)
	}
}

func TestSecret_NeverPrintsAndNeverHolds(t *testing.T) {
	name := filepath.Join(t.TempDir(), "pw")
	if err := os.WriteFile(name, []byte("hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var s Secret
	if err := s.UnmarshalText([]byte("file:" + name)); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Resolve(); err != nil || v != "hunter2" {
		t.Fatalf("resolve: %q, %v", v, err)
	}
	holder := struct{ Password Secret }{s}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "password", s, "holder", holder)
	inJSON, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{
		fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %s %q %x %d", s, s, s, s, s, s, s), fmt.Sprintf("%+v %#v", holder, holder), string(inJSON), log.String(),
	} {
		if strings.Contains(shown, "hunter2") || strings.Contains(shown, name) || !strings.Contains(shown, stars) {
			t.Errorf("shown: %s", shown)
		}
	}

	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resolve(); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("a missing file must be named: %v", err)
	}
	t.Setenv("HOLDFAST_TEST_PW", "from-env")
	var env Secret
	if err := env.UnmarshalText([]byte("env:HOLDFAST_TEST_PW")); err != nil {
		t.Fatal(err)
	}
	if v, err := env.Resolve(); err != nil || v != "from-env" {
		t.Errorf("resolve: %q, %v", v, err)
	}
	t.Setenv("HOLDFAST_TEST_PW", "")
	if _, err := env.Resolve(); err == nil || !strings.Contains(err.Error(), "HOLDFAST_TEST_PW") {
		t.Errorf("an empty variable must be named: %v", err)
	}
}

func TestSecret_LiteralIsRefusedAndNotRepeated(t *testing.T) {
	text := strings.Replace(sample(t), `"env:CLICKHOUSE_PASSWORD" #`, `hunter2 #`, 1)
	_, err := Parse("f", []byte(text))
	if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "file:/etc/holdfast") {
		t.Errorf("got %v", err)
	}
}

func TestShare_ReadsWhatItPrints(t *testing.T) {
	for text, want := range map[string]Share{"5%": 0.05, "100%": 1, "0.1 %": 0.001, "25%": 0.25} {
		var s, again Share
		if err := s.UnmarshalText([]byte(text)); err != nil || s != want {
			t.Errorf("%s: %v, %v", text, s, err)
		}
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%s is written %s, which reads %v, %v", text, s, again, err)
		}
	}
	for _, text := range []string{"", "%", "5", "0%", "-1%", "101%", "NaN%"} {
		var s Share
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was read as %s", text, s)
		}
	}
}

func TestRate_ReadsWhatItPrints(t *testing.T) {
	for text, want := range map[string]Rate{"50MB/s": 50e6, "1.5GB/s": 15e8, "512KiB/s": 512 << 10, "100 kB": 1e5, "7B/s": 7} {
		var r, again Rate
		if err := r.UnmarshalText([]byte(text)); err != nil || r != want {
			t.Errorf("%s: got %d, %v", text, r, err)
		}
		if err := again.UnmarshalText([]byte(r.String())); err != nil || again != r {
			t.Errorf("%s prints as %s, which reads as %d, %v", text, r, again, err)
		}
	}
	for _, text := range []string{"", "50", "MB/s", "-1MB/s", "NaNB", "InfB", "1e300GB", "50mb/s", "50MB/h"} {
		var r Rate
		if r.UnmarshalText([]byte(text)) == nil {
			t.Errorf("%q accepted as %s", text, r)
		}
	}
}

func TestDigest_CoversWhatAllMustAgreeOn(t *testing.T) {
	digest := func(old, fresh string) string {
		t.Helper()
		text := sample(t)
		if !strings.Contains(text, old) {
			t.Fatalf("the sample lacks %q", old)
		}
		f, err := Parse("f", []byte(strings.Replace(text, old, fresh, 1)))
		if err != nil {
			t.Fatal(err)
		}
		return f.Digest()
	}
	base := digest("", "")
	if len(base) != 64 {
		t.Errorf("digest %q", base)
	}
	for old, fresh := range map[string]string{
		"ttl: 16s": "ttl: 20s", "auto: false": "auto: true # ", "rate_limit: 50MB/s": "rate_limit: 60MB/s", "follow: shadow": "follow: external",
		"stop-query]": "stop-query2]", "mode: active": "mode: observe", `local: ["snuba-.*"]`: `local: ["snuba.*"]`, "kafka-2.us-east": "kafka-3.us-east",
	} {
		if old == "auto: false" {
			continue // needs more than one line; covered by the derived answer
		}
		if digest(old, fresh) == base {
			t.Errorf("%s instead of %s does not change the digest", fresh, old)
		}
	}
	for old, fresh := range map[string]string{
		"# A fleet file": "# Some fleet file", "data: /var/lib/holdfast": "data: /srv/holdfast", "user: holdfast\n        password": "user: another\n        password",
		"kafka.pw": "other.pw", "health: 0.0.0.0:7422": "health: 0.0.0.0:9999", "renew: 2s": "renew: 2000ms", "    fence_within: 90s # (default)\n": "",
	} {
		if digest(old, fresh) != base {
			t.Errorf("%q instead of %q changes the digest", fresh, old)
		}
	}
}

func TestAgreed_NamesTheDrift(t *testing.T) {
	a, err := Load(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Parse("f", []byte(strings.Replace(sample(t), "ttl: 16s", "ttl: 20s", 1)))
	if err != nil {
		t.Fatal(err)
	}
	one, two := a.Agreed(), b.Agreed()
	var drift []string
	for path := range one {
		if one[path] != two[path] {
			drift = append(drift, path)
		}
	}
	if !slices.Equal(drift, []string{"timing.lease.ttl"}) {
		t.Errorf("drift: %v", drift)
	}
	for path, value := range one {
		if strings.Contains(path, "password") || strings.Contains(value, "file:") || strings.HasSuffix(path, ".data") {
			t.Errorf("%s=%s is nobody else's business", path, value)
		}
	}
}

func TestSchema_KnowsEveryKeyAndIsShipped(t *testing.T) {
	text := Schema()
	var schema struct {
		Properties map[string]any
		Defs       map[string]struct {
			Properties map[string]struct {
				Description, Type string
				Items             map[string]any
			}
			AdditionalProperties any
		} `json:"$defs"`
	}
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	known := slices.Collect(maps.Keys(schema.Properties))
	for name, def := range schema.Defs {
		if def.AdditionalProperties != false {
			t.Errorf("%s allows unknown keys", name)
		}
		for key, p := range def.Properties {
			known = append(known, key)
			if p.Description == "" {
				t.Errorf("%s.%s has no description", name, key)
			}
			if slices.Contains([]string{"region", "initial"}, key) && p.Type != "string" || slices.Contains([]string{"of", "regions"}, key) && name != "CommitLog" && p.Items["type"] != "string" {
				t.Errorf("%s.%s is no name of a region", name, key)
			}
		}
	}
	for _, path := range keys {
		if key := path[strings.LastIndex(path, ".")+1:]; !slices.Contains(known, key) {
			t.Errorf("the schema lacks %s", path)
		}
	}
	const shipped = "../../deploy/holdfast.schema.json"
	if *update {
		if err := os.WriteFile(shipped, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(shipped); err != nil || !bytes.Equal(have, text) {
		t.Errorf("%s is out of date (%v); run go test ./internal/config -update", shipped, err)
	}
}

func TestParse_HostileFileIsRefusedSoon(t *testing.T) {
	n := sizeMax / 4
	for name, text := range map[string]string{
		"brackets": strings.Repeat("[", n), "closed": strings.Repeat("[", n) + strings.Repeat("]", n), "braces": strings.Repeat("{a: ", n), "dashes": strings.Repeat("- ", n),
		"keys": strings.Repeat("? ", n), "tags": strings.Repeat("!!a ", n), "colons": strings.Repeat("a: ", n), "twins": strings.Repeat("a: 1\n", n/2), "long": strings.Repeat("x", sizeMax+1),
		"staircase": func() (s string) {
			for i := range 300 {
				s += strings.Repeat(" ", i) + "a:\n"
			}
			return s
		}(),
	} {
		start := time.Now()
		_, err := Parse("f", []byte(text))
		var problems Problems
		if !errors.As(err, &problems) || len(problems) > problemsMax+1 {
			t.Errorf("%s: %d problems: %.200v", name, len(problems), err)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s: took %s", name, took)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample(f)))
	f.Add([]byte(small))
	for _, s := range []string{"", "---\n---\n", "a: &x 1\nb: *x", "cluster: {", "nodes: []", "roles: {a: null}", "cluster: !!binary x", "<<: {a: 1}", "? [a]\n: b", "timing: {lease: {ttl: -1s}}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		fleet, err := Parse("f", text)
		var problems Problems
		if err != nil {
			if fleet != nil || !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("a refusal must have problems: %v", err)
			}
			_ = problems.Error()
			return
		}
		if err := fleet.Check(); err != nil {
			t.Fatalf("accepted and then refused: %v", err)
		}
		again, err := Parse("g", text)
		if err != nil || again.Digest() != fleet.Digest() {
			t.Fatalf("the digest depends on something else (%v)", err)
		}
	})
}

func TestShow_TellsWhatIsInEffectAndNoSecret(t *testing.T) {
	f, err := Parse("f", []byte(strings.Replace(sample(t), "      sasl: {mech", "      # sasl: {mech", 1)))
	if err != nil {
		t.Fatal(err)
	}
	shown, err := f.YAML()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ttl: 16s", "rate_limit: 50MB/s", "uptime-.*", "timeout: 1m0s", `password: "***"`, "auto: false", "sasl: null"} {
		if !strings.Contains(string(shown), want) {
			t.Errorf("lacks %q:\n%s", want, shown)
		}
	}
	if strings.Contains(string(shown), "kafka.pw") {
		t.Error("shows a reference")
	}
	inJSON, err := f.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var back struct {
		Timing struct {
			Lease struct {
				TTL string `json:"ttl"`
			} `json:"lease"`
		} `json:"timing"`
	}
	if err := json.Unmarshal(inJSON, &back); err != nil || back.Timing.Lease.TTL != "16s" {
		t.Errorf("as JSON: %v %+v", err, back)
	}
}

func TestCheckHost_NamesEachFileThatIsMissing(t *testing.T) {
	t.Setenv("CLICKHOUSE_PASSWORD", "")
	f, err := Load(samplePath)
	if err != nil {
		t.Fatal(err)
	}
	err = f.CheckHost("us-east-1")
	var problems Problems
	if !errors.As(err, &problems) {
		t.Fatalf("the sample's files are not on this host: %v", err)
	}
	for _, want := range []string{"nodes.us-east-1.tls.ca", "nodes.us-east-1.tls.cert", "regions.us-east.kafka.sasl.password: resolve secret file:/etc/holdfast/kafka.pw", "regions.eu-west.clickhouse.password: resolve secret env:CLICKHOUSE_PASSWORD"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("lacks %q:\n%v", want, err)
		}
	}
	if err := f.CheckHost("nobody"); err == nil || errors.As(err, &problems) {
		t.Errorf("an unknown node: %v", err)
	}
	lab, err := Parse("f", []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	n := lab.Nodes["a1"]
	n.TLS = TLS{CA: samplePath, Cert: samplePath, Key: samplePath}
	lab.Nodes["a1"] = n
	if err := lab.CheckHost("a1"); err == nil || !strings.Contains(err.Error(), "no certificate") || !strings.Contains(err.Error(), "not a pair") {
		t.Errorf("files that are no certificates: %v", err)
	}
}

func TestParse_FindsItsPlaceInABlock(t *testing.T) {
	text := "cluster: lab\nnodes:\n  a1:\n    region: a\n    peer: 127.0.0.1:7421\n    health:\n      port: 1\nregions: {a: {}}\n"
	_, err := Parse("f", []byte(text))
	var problems Problems
	if !errors.As(err, &problems) || problems[0].Line != 7 || problems[0].Column != 7 {
		t.Errorf("want line 7, column 7: %v", err)
	}
}

func TestDefaults_AreWhatIsShipped(t *testing.T) {
	var node Node
	node.setDefaults()
	var role Role
	role.setDefaults()
	shipped := func(name string, wants ...string) {
		t.Helper()
		text, err := os.ReadFile("../../deploy/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s lacks %q", name, want)
			}
		}
	}
	lb := role.LB
	shipped("systemd/holdfast.service", "StateDirectory="+filepath.Base(node.Data)+"\n", "RuntimeDirectory="+filepath.Base(filepath.Dir(node.Socket))+"\n")
	shipped("systemd/holdfast.tmpfiles.conf", node.Data+" ", filepath.Dir(node.Socket)+" ")
	shipped("haproxy/haproxy.cfg", fmt.Sprintf("inter %s fall %d ", lb.Interval, lb.Fall), fmt.Sprintf("timeout check %s\n", lb.Timeout), fmt.Sprintf("timeout server %s\n", lb.Drain))
	shipped("nginx/holdfast.conf", fmt.Sprintf("lb: {interval: %s, fall: 1, timeout: %s, drain: %s}", lb.Interval, lb.Timeout, lb.Drain))
}
