package recovery

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/backup/repository"
	"github.com/holdfast-dr/holdfast/internal/certs"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/objects"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

// Host is a fleet as reached from this machine. It is safe for concurrent use
// and holds no connections.
type Host struct {
	o        Options
	me       config.Node
	dial     Dial
	verifier *certs.Verifier
	log      *slog.Logger
}

// NewHost prepares; it dials nothing.
func NewHost(o Options) (*Host, error) {
	h := &Host{o: o, log: o.Log}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if o.Node != "" {
		me, err := o.Fleet.Node(o.Node)
		if err != nil {
			return nil, err
		}
		h.me = me
	}
	ca := o.CAFile
	if ca == "" {
		ca = h.me.TLS.CA
	}
	if ca == "" {
		return nil, errors.New("find the fleet's certificate authority: no node of this host is named, and no file either; seals cannot be verified without it (--node or --ca)")
	}
	var err error
	if h.verifier, err = certs.NewVerifier(ca, o.Fleet.Cluster); err != nil {
		return nil, err
	}
	h.dial = Dialer(h.me)
	return h, nil
}

// open opens the repository of a region. What it may do follows from what is
// given: without an identity of this node it cannot write, without an age
// identity it cannot read blobs.
func (h *Host) open(ctx context.Context, region topology.Region, identity func() (string, error)) (*archive, error) {
	conf := h.o.Fleet.Regions[region].Repository
	if conf == nil {
		return nil, fmt.Errorf("open the repository of %s: %s names none (regions.%s.repository)", region, h.o.Fleet.File(), region)
	}
	oc := objects.Config{
		Name: "repository of " + string(region), Endpoint: conf.Endpoint, Bucket: conf.Bucket, Prefix: conf.Prefix, Region: conf.Region,
		PathStyle: conf.PathStyle, AccessKey: conf.AccessKey.Resolve, SecretKey: conf.SecretKey.Resolve, Dial: h.dial, RateLimit: int64(conf.RateLimit),
	}
	if conf.TLS != nil {
		oc.TLS = &objects.TLS{CAFile: conf.TLS.CA}
	}
	bucket, err := objects.Open(oc)
	if err != nil {
		return nil, err
	}
	rc := repository.Config{
		Store: bucket, Cluster: h.o.Fleet.Cluster, Region: region, Verifier: h.verifier,
		Recipient: conf.Recipient, DedupeKey: func() ([]byte, error) { return dedupeKey(conf.DedupeKey) }, Identity: identity,
	}
	if h.o.Identity != nil {
		rc.Sign = h.o.Identity
	}
	repo, err := repository.Open(ctx, rc)
	if err != nil {
		bucket.Close()
		return nil, err
	}
	return &archive{repo, bucket}, nil
}

// archive is a repository with its connections.
type archive struct {
	*repository.Repository
	bucket *objects.Bucket
}

func (a *archive) Close() { a.bucket.Close() }

// reportsMax bounds how many drills of one set are listed.
const reportsMax = 10_000

// Reports implements Archive.
func (a *archive) Reports(ctx context.Context, set backup.SetID) ([]string, error) {
	folder := backup.DrillPrefix + string(set) + "/"
	found, err := a.bucket.List(ctx, folder, "", reportsMax)
	if err != nil {
		return nil, fmt.Errorf("list the drills of set %s: %w", set, err)
	}
	var runs []string
	for _, o := range found {
		if run, ok := strings.CutSuffix(strings.TrimPrefix(o.Key, folder), ".json"); ok {
			runs = append(runs, run)
		}
	}
	slices.Sort(runs)
	slices.Reverse(runs)
	return runs, nil
}

// Report implements Archive.
func (a *archive) Report(ctx context.Context, set backup.SetID, run string) (restore.Report, error) {
	r, _, err := a.Repository.Report(ctx, backup.DrillKey(set, run))
	return r, err
}

// dedupeKey reads the key in hexadecimal, or else takes its bytes as they are.
func dedupeKey(s config.Secret) ([]byte, error) {
	text, err := s.Resolve()
	if err != nil {
		return nil, err
	}
	text = strings.TrimSpace(text)
	if key, err := hex.DecodeString(text); err == nil {
		return key, nil
	}
	return []byte(text), nil
}

// Archive opens the repository of a region for reading. identity gives the age
// identity that decrypts its blobs; nil: all that needs no private key works.
func (h *Host) Archive(ctx context.Context, region topology.Region, identity func() (string, error)) (Archive, error) {
	return h.open(ctx, region, identity)
}

// engines lists what a set of a region contains, in the order of a set.
func (h *Host) engines(region topology.Region, want []backup.Engine) ([]backup.Engine, error) {
	all := h.o.Fleet.BackupEngines(region)
	var out []backup.Engine
	for _, e := range backup.Engines() {
		if slices.Contains(all, string(e)) && (len(want) == 0 || slices.Contains(want, e)) {
			out = append(out, e)
		}
	}
	if len(out) == 0 || len(want) > len(out) {
		return nil, fmt.Errorf("take a set of %s: of %v it has %v", region, want, all)
	}
	return out, nil
}
