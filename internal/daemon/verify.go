package daemon

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/consensus/raft"
	"github.com/holdfast-dr/holdfast/internal/agent"
	"github.com/holdfast-dr/holdfast/internal/clock"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/schedule"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

const (
	verifiedPath    = "/control/v1/verified"
	verifiedDir     = "verified" // in the data directory
	verifiedPage    = 500        // partitions in one answer
	verifiedKept    = 90 * 24 * time.Hour
	verifiedSave    = 5 * time.Second // of statements a killed daemon may lose
	verifiedFormat  = 1
	statementDomain = "mirror-statement"
	differShown     = 20
)

// verifier compares both ends of the links to this node's region, and keeps
// what it last said about each partition. A comparison is a run in the log, as
// a backup is: so a slot of the schedule has one run whoever leads, there is
// one at a time, it can be followed and cancelled from any node, and a daemon
// that restarts begins it again.
type verifier struct {
	node    topology.Node
	region  topology.Region
	dir     string
	conf    config.Verify
	mirrors *mirrors
	sign    func(domain string, payload []byte) (signature, certPEM []byte, err error)
	clock   clock.Clock
	state   func() consensus.State
	log     *slog.Logger

	mu       sync.Mutex
	progress map[consensus.RunID]backup.Progress
	books    map[consensus.LinkID]*book
	found    map[consensus.LinkID]int64 // records that differ, by this process
}

// book is what was said about the partitions of one link.
type book struct {
	Format       int               `json:"format"`
	Link         consensus.LinkID  `json:"link"`
	Certificates map[string]string `json:"certificates"`
	Pages        []*bookPage       `json:"partitions"` // sorted

	saved time.Time
}

type bookPage struct {
	httpapi.VerifiedPartition
	last           replicate.Statement
	whole, differs *replicate.Statement
}

func (d *Daemon) newVerifier() *verifier {
	v := &verifier{
		node: d.node, region: d.me.Region, dir: filepath.Join(d.me.Data, verifiedDir), conf: d.fleet.Mirror.Verify, mirrors: d.mirrors,
		sign: d.identity.Sign, clock: d.clock, state: d.raft.State, log: d.log,
		progress: map[consensus.RunID]backup.Progress{}, books: map[consensus.LinkID]*book{}, found: map[consensus.LinkID]int64{},
	}
	v.load()
	return v
}

// verifyJobs are the slots at which what was mirrored is compared.
func verifyJobs(f *config.Fleet) []job {
	v := f.Mirror.Verify
	if v.Schedule.IsZero() {
		return nil
	}
	var jobs []job
	for _, r := range f.RegionNames() {
		if f.Regions[r].Kafka == nil {
			continue
		}
		spec := httpapi.StartVerify{Sample: float64(v.Sample), Fast: true, New: true}
		jobs = append(jobs, job{"verify/" + string(r), httpapi.KindVerify, r, v.Schedule, schedule.Latest, v.Timeout, spec,
			func(s consensus.State) bool { return targets(s.Links, r) }})
	}
	return jobs
}

func (v *verifier) runners() []agent.Runner {
	return []agent.Runner{agent.Repeat(httpapi.KindVerify, v.run)}
}

// run compares the link to this region, as the spec says.
func (v *verifier) run(ctx context.Context, t agent.Task, f agent.Fence) (any, error) {
	var spec httpapi.StartVerify
	if err := json.Unmarshal(t.Spec, &spec); err != nil {
		return nil, fmt.Errorf("read the spec of run %s: %w", t.Run, err)
	}
	id, l, err := v.link()
	if err != nil {
		return nil, err
	}
	if err := v.mirrors.rightClusters(ctx, l); err != nil {
		return nil, err
	}
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.progress, t.Run)
		if err := v.save(id, true); err != nil {
			v.log.Warn("keep the statements of a comparison", "link", id, "error", err)
		}
	}()
	began, cpu := v.clock.Wall().UTC(), cpuTime()
	from := time.Now()
	rep, differ, err := v.compare(ctx, t.Run, spec, id, l, f)
	if err != nil {
		return nil, err
	}
	e := httpapi.VerifyEvidence{
		Link: id, Epoch: l.Epoch, Region: v.region, Sample: spec.Sample, Fast: spec.Fast, New: spec.New,
		Identical: rep.Identical, Differing: rep.Differing, Nothing: rep.Nothing, Failed: len(rep.Failed), Records: rep.Records, Offsets: rep.Offsets,
		Source: rep.SourceBytes, Target: rep.TargetBytes, Differ: differ,
		CPUMs: (cpuTime() - cpu).Milliseconds(), TookMs: time.Since(from).Milliseconds(), Began: began, Ended: v.clock.Wall().UTC(),
	}
	for _, x := range rep.Failed[:min(len(rep.Failed), differShown)] {
		e.Failures = append(e.Failures, httpapi.VerifyFailure{Partition: x.Partition, Why: cut(x.Why)})
	}
	level := slog.LevelInfo
	if e.Differing > 0 {
		level = slog.LevelError
	}
	v.log.Log(ctx, level, "both ends compared", "link", id, "identical", e.Identical, "differing", e.Differing, "failed", e.Failed, "records", e.Records, "took_ms", e.TookMs)
	return e, nil
}

func (v *verifier) compare(ctx context.Context, run consensus.RunID, spec httpapi.StartVerify, id consensus.LinkID, l consensus.Link, f agent.Fence) (rep mirror.VerifyReport, differ []string, err error) {
	// Connections of its own: a broker answers one after the other, and the
	// mirror must not wait for this.
	source, err := v.mirrors.regions[l.From].kafka.Another()
	if err != nil {
		return rep, nil, err
	}
	defer source.Close()
	target, err := v.mirrors.regions[l.To].kafka.Another()
	if err != nil {
		return rep, nil, err
	}
	defer target.Close()
	conf := mirror.VerifyConfig{
		Link: replicate.Link{Source: l.From, Target: l.To, Epoch: l.Epoch}, Source: source, Target: target,
		Topics: v.mirrors.topics, Starts: flat(l.Starts), Sample: spec.Sample, Batches: spec.Fast, Rate: float64(cmp.Or(spec.Rate, int64(v.conf.RateLimit))), Node: v.node,
		Progress: func(p mirror.VerifyProgress) { v.tell(run, p) },
	}
	if len(spec.Topics) > 0 {
		conf.Topics = replicate.Only(spec.Topics...)
	}
	if spec.New {
		conf.Prior = func(p topology.Partition) (replicate.Statement, bool) { return v.prior(id, p, spec.Sample) }
	}
	conf.Each = func(s replicate.Statement) error {
		if err := f.Check(); err != nil {
			return err
		}
		if now := v.state().Links[id]; now.Epoch != l.Epoch || now.Phase != consensus.LinkRunning {
			return fmt.Errorf("link %s was changed meanwhile (epoch %d, %s)", id, now.Epoch, now.Phase)
		}
		if s.Verdict == replicate.Differs && len(differ) < differShown {
			differ = append(differ, s.String()+": "+cut(s.Differences[0].Detail))
		}
		return v.keep(id, s)
	}
	rep, err = mirror.Verify(ctx, conf)
	return rep, differ, err
}

// link is the running link to this region.
func (v *verifier) link() (consensus.LinkID, consensus.Link, error) {
	s := v.state()
	for _, id := range slices.Sorted(maps.Keys(s.Links)) {
		if l := s.Links[id]; l.To == v.region && l.Phase == consensus.LinkRunning && v.mirrors.served(l) {
			return id, l, nil // two regions: there is one at most
		}
	}
	return "", consensus.Link{}, fmt.Errorf("nothing is mirrored to %s now: `holdfast mirror status`", v.region)
}

func (v *verifier) tell(run consensus.RunID, p mirror.VerifyProgress) {
	stage := fmt.Sprintf("%s, partition %d of %d", p.Partition, p.Number, p.Of)
	if p.Differing > 0 {
		stage += fmt.Sprintf(", %d DIFFER", p.Differing)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.progress[run] = backup.Progress{Stage: stage, Done: p.Offsets, Total: p.ToDo, Unit: "offsets"}
}

// report adds how far live runs are.
func (v *verifier) report(to map[consensus.RunID]backup.Progress) {
	v.mu.Lock()
	defer v.mu.Unlock()
	maps.Copy(to, v.progress)
}

// prior is the statement that a comparison with this sample may go on from.
func (v *verifier) prior(id consensus.LinkID, p topology.Partition, sample float64) (replicate.Statement, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	pg := v.books[id].page(p)
	switch {
	case pg == nil:
		return replicate.Statement{}, false
	case sample > 0 && sample < 1:
		return pg.last, true
	case pg.whole != nil:
		return *pg.whole, true
	}
	return pg.last, pg.last.Whole()
}

// keep signs a statement and takes it into the book of its link.
func (v *verifier) keep(id consensus.LinkID, s replicate.Statement) error {
	raw, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode the statement about %s: %w", s.Partition, err)
	}
	signature, certPEM, err := v.sign(statementDomain, raw)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(certPEM)
	signed := httpapi.SignedStatement{Statement: raw, Signature: signature, Certificate: hex.EncodeToString(sum[:])}
	v.mu.Lock()
	defer v.mu.Unlock()
	b := v.books[id]
	if b == nil {
		b = &book{Format: verifiedFormat, Link: id, Certificates: map[string]string{}}
		v.books[id] = b
	}
	b.Certificates[signed.Certificate] = string(certPEM)
	b.add(s, signed)
	v.found[id] += s.Differing
	return v.save(id, false)
}

func (b *book) find(p topology.Partition) (int, bool) {
	return slices.BinarySearchFunc(b.Pages, p, func(pg *bookPage, p topology.Partition) int { return pg.Partition.Compare(p) })
}

func (b *book) page(p topology.Partition) *bookPage {
	if b == nil {
		return nil
	}
	if i, ok := b.find(p); ok {
		return b.Pages[i]
	}
	return nil
}

// add takes in the newest statement about a partition. A difference stays
// until a later statement clears it, and the newest proof of the whole range
// until it is of other logs.
func (b *book) add(s replicate.Statement, signed httpapi.SignedStatement) {
	i, known := b.find(s.Partition)
	if !known {
		b.Pages = slices.Insert(b.Pages, i, &bookPage{VerifiedPartition: httpapi.VerifiedPartition{Partition: s.Partition, Last: signed}, last: s})
		return
	}
	pg := b.Pages[i]
	old, oldSigned := pg.last, pg.Last
	if old.Verdict == replicate.Differs {
		pg.differs, pg.Differs = &old, &oldSigned
	}
	if old.Verdict == replicate.Identical && old.Whole() {
		pg.whole, pg.Whole = &old, &oldSigned
	}
	pg.last, pg.Last = s, signed
	if pg.differs != nil && (s.Verdict == replicate.Differs && s.Whole() || s.Clears(*pg.differs)) {
		pg.differs, pg.Differs = nil, nil
	}
	if pg.whole != nil && (s.Verdict == replicate.Identical && s.Whole() || !s.SameLogs(*pg.whole)) {
		pg.whole, pg.Whole = nil, nil
	}
}

// differing is the statement whose difference stands, nil if none does.
func (pg *bookPage) differing() *replicate.Statement {
	if pg.last.Verdict == replicate.Differs {
		return &pg.last
	}
	return pg.differs
}

// identical is the newest statement that found no difference, nil when there
// is none or one stands.
func (pg *bookPage) identical() *replicate.Statement {
	switch {
	case pg.differing() != nil:
		return nil
	case pg.last.Verdict == replicate.Identical:
		return &pg.last
	}
	return pg.whole
}

// save writes a book, when it was not written lately or must be now.
func (v *verifier) save(id consensus.LinkID, now bool) error {
	b := v.books[id]
	if b == nil || !now && time.Since(b.saved) < verifiedSave {
		return nil
	}
	oldest := v.clock.Wall().Add(-verifiedKept)
	b.Pages = slices.DeleteFunc(b.Pages, func(pg *bookPage) bool { return pg.last.At.Before(oldest) })
	used := map[string]bool{}
	for _, pg := range b.Pages {
		for _, s := range []*httpapi.SignedStatement{&pg.Last, pg.Whole, pg.Differs} {
			if s != nil {
				used[s.Certificate] = true
			}
		}
	}
	maps.DeleteFunc(b.Certificates, func(k, _ string) bool { return !used[k] })
	raw, err := json.Marshal(b)
	if err != nil {
		return fmt.Errorf("encode the statements of %s: %w", id, err)
	}
	if err := writeWhole(v.file(id), raw); err != nil {
		return err
	}
	b.saved = time.Now()
	return nil
}

func (v *verifier) file(id consensus.LinkID) string {
	return filepath.Join(v.dir, strings.ReplaceAll(string(id), ">", "--")+".json")
}

// writeWhole replaces a file so that a crash leaves the old one or the new.
func writeWhole(file string, raw []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// load reads the books of former lives. One that cannot be read is said, and
// begun anew: a comparison makes it again.
func (v *verifier) load() {
	files, err := filepath.Glob(filepath.Join(v.dir, "*.json"))
	for _, file := range files {
		raw, readErr := os.ReadFile(file)
		b := &book{}
		if readErr == nil {
			readErr = b.read(raw)
		}
		if readErr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", file, readErr))
			continue
		}
		v.books[b.Link] = b
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		v.log.Warn("statements of earlier comparisons cannot be read", "error", err)
	}
}

func (b *book) read(raw []byte) error {
	if err := json.Unmarshal(raw, b); err != nil {
		return err
	}
	if b.Format != verifiedFormat || b.Certificates == nil {
		return fmt.Errorf("it has format %d, want %d", b.Format, verifiedFormat)
	}
	for _, pg := range b.Pages {
		var err error
		if pg.last, err = pg.Last.Decode(); err != nil {
			return err
		}
		for from, into := range map[*httpapi.SignedStatement]**replicate.Statement{pg.Whole: &pg.whole, pg.Differs: &pg.differs} {
			if from == nil {
				continue
			}
			s, err := from.Decode()
			if err != nil {
				return err
			}
			*into = &s
		}
	}
	return nil
}

// annotate puts what differs among the findings of the links that run here.
func (v *verifier) annotate(links map[consensus.LinkID]linkReport) {
	s := v.state()
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, r := range links {
		b := v.books[id]
		if b == nil {
			continue
		}
		var found []replicate.Finding
		more := 0
		for _, pg := range b.Pages {
			bad := pg.differing()
			switch {
			case bad == nil || bad.Link.Epoch != s.Links[id].Epoch:
			case len(found) == differShown:
				more++
			default:
				found = append(found, replicate.Finding{
					About: bad.Partition.String(),
					Text:  fmt.Sprintf("%s (compared %s)", strings.TrimPrefix(bad.String(), bad.Partition.String()+" "), bad.At.UTC().Format("2006-01-02 15:04 MST")),
					Next:  fmt.Sprintf("holdfast mirror verify --region %s --topic %s", v.region, bad.Topic),
				})
			}
		}
		if more > 0 {
			found = append(found, replicate.Finding{About: "comparison", Text: fmt.Sprintf("%d more partitions differ", more), Next: "holdfast mirror verify --last --region " + string(v.region)})
		}
		if last, failed := lastRun(s, httpapi.KindVerify, v.region); failed {
			found = append(found, replicate.Finding{About: "comparison", Text: fmt.Sprintf("the last one could not be done, %s ago: %s", span(v.clock.Wall().Sub(last.Ended)), cut(last.Error)), Next: "holdfast mirror verify --region " + string(v.region)})
		}
		r.Status.Findings = append(slices.Clip(r.Status.Findings), found...)
		links[id] = r
	}
}

// collect shows the statements to Prometheus.
func (v *verifier) collect(m *metrics, ch chan<- prometheus.Metric) {
	if v == nil {
		return
	}
	now := v.clock.Wall()
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, b := range v.books {
		from, to, _ := strings.Cut(string(id), ">")
		bad := 0
		for _, pg := range b.Pages {
			if pg.differing() != nil {
				bad++
			}
			if s := pg.identical(); s != nil {
				n := strconv.Itoa(int(s.Partition.Partition))
				ch <- prometheus.MustNewConstMetric(m.verified, prometheus.GaugeValue, float64(s.Through), from, to, s.Topic, n)
				ch <- prometheus.MustNewConstMetric(m.verifiedAge, prometheus.GaugeValue, now.Sub(s.At).Seconds(), from, to, s.Topic, n)
			}
		}
		ch <- prometheus.MustNewConstMetric(m.differing, prometheus.GaugeValue, float64(bad), from, to)
		ch <- prometheus.MustNewConstMetric(m.differences, prometheus.CounterValue, float64(v.found[id]), from, to)
	}
}

// page is what this node has said, from a position on.
func (v *verifier) page(from int) httpapi.Verified {
	out := httpapi.Verified{At: v.clock.Wall().UTC(), Region: v.region, Node: v.node, Partitions: []httpapi.VerifiedPartition{}, Certificates: map[string]string{}}
	s := v.state()
	v.mu.Lock()
	defer v.mu.Unlock()
	n := 0
	for _, id := range slices.Sorted(maps.Keys(v.books)) {
		if s.Links[id].To != v.region {
			continue
		}
		maps.Copy(out.Certificates, v.books[id].Certificates)
		for _, pg := range v.books[id].Pages {
			if n++; n <= from {
				continue
			}
			if len(out.Partitions) == verifiedPage {
				out.More = true
				return out
			}
			out.Partitions = append(out.Partitions, pg.VerifiedPartition)
		}
	}
	return out
}

// mountVerified answers other nodes about the statements that are kept here.
func (d *Daemon) mountVerified(port *raft.Port) {
	port.Handle("POST "+verifiedPath, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if d.verify == nil {
			http.Error(w, "nothing is compared on this node", http.StatusConflict)
			return
		}
		body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, 64))
		from, numErr := strconv.Atoi(string(bytes.TrimSpace(body)))
		if err := errors.Join(err, numErr); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(d.verify.page(from)) // the caller sees a short answer as an error
	}))
}

// Verified implements httpapi.Backend.
func (d *Daemon) Verified(ctx context.Context, region topology.Region, from int) (httpapi.Verified, error) {
	region, err := d.targetOf("read statements", region)
	if err != nil {
		return httpapi.Verified{}, err
	}
	node, _ := d.fleet.NodeOf(region)
	if node == d.node {
		return d.verify.page(from), nil
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	var out httpapi.Verified
	answer, err := callPeer(ctx, d.port, node, verifiedPath, []byte(strconv.Itoa(from)))
	if err == nil {
		err = json.Unmarshal(answer, &out)
	}
	if err != nil {
		return out, httpapi.Problemf(httpapi.Unavailable, "read statements", "they are kept by "+string(node)+": `holdfast members list`", "%s", err)
	}
	return out, nil
}

// StartVerify implements httpapi.Backend.
func (d *Daemon) StartVerify(ctx context.Context, want httpapi.StartVerify, by string) (consensus.RunID, error) {
	const what = "start the comparison"
	region, err := d.targetOf(what, want.Region)
	if err != nil {
		return "", err
	}
	if !targets(d.raft.State().Links, region) {
		return "", httpapi.Problemf(httpapi.Refused, what, "`holdfast mirror status` shows the links", "no running link mirrors to %s", region)
	}
	want.Region = region
	return d.startRun(ctx, httpapi.KindVerify, region, want, d.fleet.Mirror.Verify.Timeout, by)
}

// targetOf completes the name of a target: the only one there is.
func (d *Daemon) targetOf(what string, region topology.Region) (topology.Region, error) {
	s := d.raft.State()
	var all []topology.Region
	for _, id := range slices.Sorted(maps.Keys(s.Links)) {
		if l := s.Links[id]; l.Phase != consensus.LinkEnded && !slices.Contains(all, l.To) {
			all = append(all, l.To)
		}
	}
	if region == "" && len(all) == 1 {
		region = all[0]
	}
	if _, known := d.fleet.NodeOf(region); !known || region == "" {
		return "", httpapi.Problemf(httpapi.NotFound, what, fmt.Sprintf("--region with one of %s", strings.Join(names(all), ", ")), "%d regions are targets of a mirror, and %q names none of them", len(all), string(region))
	}
	return region, nil
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
