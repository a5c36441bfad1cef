package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

func backupVerify(a *app) *cobra.Command {
	var w where
	var all, readData bool
	c := &cobra.Command{
		Use:   "verify [SET|latest]",
		Short: "Look whether every object of a recovery set is there, and with --read-data whether every byte is right",
		Long: `Verifies the signature of the seal, the hash of each manifest, and looks at every
object that a restore would read: whether it is there with its size, and with
--read-data whether its bytes are those that were hashed when the set was taken.
No private key is needed, and no daemon. Whether a set restores, only a drill
proves: holdfast drill run.

  holdfast backup verify
  holdfast backup verify 01KJN9Z --read-data
  holdfast backup verify --all --region us-east

It ends with 5 when something is missing or wrong, and names each object.`,
		Args: wants(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if all && len(args) > 0 {
				return usagef(c, "--all verifies every set: leave %s out, or --all", args[0])
			}
			d, err := a.depot(c, w)
			if err != nil {
				return err
			}
			ctx := c.Context()
			var sets []found
			if all {
				sets, err = d.all(ctx)
			} else {
				var one found
				one, err = d.find(ctx, a, cmp.Or(append(args, latest)...), nil)
				sets = []found{one}
			}
			if err != nil {
				return err
			}
			r, err := a.verify(ctx, sets, readData)
			if err != nil {
				return err
			}
			if err := a.show(r, func() string { return renderVerified(r) }); err != nil {
				return err
			}
			if !r.OK {
				return ended{exitFindings}
			}
			return nil
		},
	}
	w.flags(c.Flags())
	c.Flags().BoolVar(&all, "all", false, "verify every set")
	c.Flags().BoolVar(&readData, "read-data", false, "read every byte, and compare it with its hash")
	return c
}

// all lists every set, newest first. What cannot be read is an error: a short
// list would look like a whole one.
func (d *depot) all(ctx context.Context) ([]found, error) {
	var out []found
	for _, s := range d.openAll(ctx, nil) {
		if s.err != nil {
			return nil, s.err
		}
		for _, id := range s.sets {
			out = append(out, found{s.shelf, id})
		}
	}
	if len(out) == 0 {
		return nil, usage{fmt.Sprintf("there is no set in the repository of %s: `holdfast backup run` takes one", words(d.regions))}
	}
	slices.SortStableFunc(out, func(a, b found) int { return cmp.Compare(b.set, a.set) })
	return out, nil
}

// verified is the result of backup verify.
type verified struct {
	OK       bool          `json:"ok"`
	ReadData bool          `json:"read_data"`
	Log      bool          `json:"log"` // the daemon answered
	Sets     []setVerified `json:"sets"`
}

// setVerified is what was found in one set.
type setVerified struct {
	Set      backup.SetID      `json:"set"`
	Region   topology.Region   `json:"region"`
	Vault    string            `json:"vault"`
	OK       bool              `json:"ok"`
	Logged   bool              `json:"logged"` // the log has this seal
	Objects  int               `json:"objects"`
	Bytes    int64             `json:"bytes"` // that a restore reads
	Read     int64             `json:"read"`  // that were read now
	TookMs   int64             `json:"took_ms"`
	Broken   int               `json:"broken"`
	Findings []restore.Finding `json:"findings"` // the first ones
}

func (a *app) verify(ctx context.Context, sets []found, readData bool) (verified, error) {
	book := a.logbook(ctx)
	out := verified{OK: true, ReadData: readData, Log: book.answered, Sets: []setVerified{}}
	g := a.gauge(ctx)
	defer g.end()
	for i, f := range sets {
		which := ""
		if len(sets) > 1 {
			which = fmt.Sprintf("set %d of %d, ", i+1, len(sets))
		}
		v, err := a.verifySet(ctx, f, book.digest(f.set), readData, func(p backup.Progress) {
			p.Stage = which + p.Stage
			g.show(p)
		})
		if err != nil {
			return out, fmt.Errorf("verify set %s of %s: %w", f.set, f.region, err)
		}
		out.Sets = append(out.Sets, v)
		out.OK = out.OK && v.OK
	}
	return out, nil
}

func (a *app) verifySet(ctx context.Context, f found, expect backup.Digest, readData bool, progress func(backup.Progress)) (setVerified, error) {
	from := a.now()
	v := setVerified{Set: f.set, Region: f.region, Vault: f.archive.Name(), Logged: expect != "", Findings: []restore.Finding{}}
	l, err := restore.Load(ctx, f.archive, f.set, expect)
	if errors.Is(err, restore.ErrDamaged) {
		v.Broken, v.Findings = 1, []restore.Finding{{Object: backup.SealKey(f.set), What: err.Error(), Hurts: "the whole set"}}
		return v, nil
	}
	if err != nil {
		return v, err
	}
	v.Bytes = l.Seal.Totals().Bytes
	var sum restore.Verification
	for _, e := range l.Engines() {
		m := l.Manifests[e]
		progress(backup.Progress{Stage: string(e)})
		got, err := f.archive.Verify(ctx, m, readData, progress)
		if err != nil {
			return v, fmt.Errorf("look at the objects of %s: %w", e, err)
		}
		if least := objectsOf(m); got.Broken == 0 && got.Objects < least {
			return v, fmt.Errorf("of %s only %s were looked at, it has %d: nothing is verified", e, some(got.Objects, "object"), least)
		}
		sum = sum.Add(got)
	}
	v.Objects, v.Read, v.Broken, v.OK = sum.Objects, sum.Bytes, sum.Broken, sum.Broken == 0
	v.Findings = append(v.Findings, sum.Findings...)
	v.TookMs = a.now().Sub(from).Milliseconds()
	return v, nil
}

// objectsOf counts the blobs and the objects of packs, each once: what a look
// at a part sees, at least.
func objectsOf(m *backup.Manifest) (n int) {
	seen := map[string]bool{}
	for _, b := range m.Blobs {
		if !seen[b.Key] {
			seen[b.Key] = true
			n++
		}
	}
	for _, p := range m.Packs {
		if !seen[p.ID] {
			seen[p.ID] = true
			n += p.Objects
		}
	}
	return n
}
