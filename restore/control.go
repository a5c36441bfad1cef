package restore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/holdfast-dr/holdfast/backup"
)

// controls break one byte of one object and one row of each engine, and see
// whether the very checks that just passed notice. A check that does not has
// proven nothing before either.
func (j *job) controls(ctx context.Context, seed uint64, r *Report) error {
	return j.stage(ctx, "controls", func(s *Stage) error {
		c, err := j.objectControl(ctx, rand.New(rand.NewPCG(seed, 1)))
		if err != nil {
			return err
		}
		r.Controls = append(r.Controls, c)
		for _, e := range j.engines {
			m := j.loaded.Manifests[e]
			if t, ok := j.targets[e]; !ok {
				r.Controls = append(r.Controls, offsetControl(m))
			} else if rowsAtLeast(m) == 0 {
				j.notes = append(j.notes, fmt.Sprintf("%s holds no row, so none could be changed to see whether that is noticed", e))
			} else {
				r.Controls = append(r.Controls, j.rowControl(ctx, t, m))
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		var missed []string
		for _, c := range r.Controls {
			if !c.Caught {
				missed = append(missed, fmt.Sprintf("%s (%s): %s", c.Name, c.What, c.How))
			}
		}
		if len(missed) > 0 {
			return &blindError{"the checks did not notice what was broken on purpose, so they prove nothing: " + strings.Join(missed, "; ")}
		}
		s.What = fmt.Sprintf("%s, all caught", count(len(r.Controls), "control"))
		return nil
	})
}

// victim is an object to break.
type victim struct {
	kind string
	key  string
	m    *backup.Manifest // that needs it, unless it is the seal
}

// kinds of objects, with how often each is chosen against the others: most of
// a set's bytes are data, and what reads data is what has to be tried most.
var kinds = []struct {
	name   string
	weight int
}{{"seal", 1}, {"manifest", 1}, {"blob", 3}, {"pack index", 2}, {"pack object", 3}}

// pick chooses one object of the set: first its kind, then which.
func (j *job) pick(ctx context.Context, rnd *rand.Rand) (victim, error) {
	byKind := map[string][]victim{"seal": {{kind: "seal", key: backup.SealKey(j.loaded.Seal.Set)}}}
	type inPack struct {
		p backup.Pack
		m *backup.Manifest
	}
	var packs []inPack
	for _, p := range j.loaded.Seal.Parts {
		m := j.loaded.Manifests[p.Engine]
		byKind["manifest"] = append(byKind["manifest"], victim{"manifest", p.Manifest, m})
		for _, b := range m.Blobs {
			byKind["blob"] = append(byKind["blob"], victim{"blob", b.Key, m})
		}
		for _, p := range m.Packs {
			byKind["pack index"] = append(byKind["pack index"], victim{"pack index", p.Index, m})
			if p.Bytes > 0 {
				packs = append(packs, inPack{p, m})
			}
		}
	}
	sum := 0
	has := func(kind string) bool {
		return len(byKind[kind]) > 0 || kind == "pack object" && len(packs) > 0
	}
	for _, k := range kinds {
		if has(k.name) {
			sum += k.weight
		}
	}
	n := rnd.IntN(sum)
	for _, k := range kinds {
		switch {
		case !has(k.name):
		case n >= k.weight:
			n -= k.weight
		case k.name != "pack object":
			return byKind[k.name][rnd.IntN(len(byKind[k.name]))], nil
		default:
			in := packs[rnd.IntN(len(packs))]
			x, err := j.vault.PackIndex(ctx, in.p)
			if err != nil {
				return victim{}, fmt.Errorf("choose an object to break: %w", err)
			}
			objects := slices.DeleteFunc(x.Objects, func(o backup.PackObject) bool { return o.Bytes == 0 })
			if len(objects) == 0 {
				return victim{}, &blindError{fmt.Sprintf("choose an object to break: the index %s names none with a byte in it", in.p.Index)}
			}
			o := objects[rnd.IntN(len(objects))]
			return victim{k.name, backup.PackPrefix(x.Engine, in.p.ID) + o.Name, in.m}, nil
		}
	}
	panic("the weights of the kinds do not add up to their sum")
}

// objectControl looks at the set through a view in which one byte is wrong. It
// must be noticed, and the object must be named: an error about anything else
// is not what was asked for.
func (j *job) objectControl(ctx context.Context, rnd *rand.Rand) (Control, error) {
	v, err := j.pick(ctx, rnd)
	if err != nil {
		return Control{}, err
	}
	c := Control{Name: "one byte of an object", What: v.kind + " " + v.key}
	view := j.vault.Corrupted(v.key)
	l, refusal := Load(ctx, view, j.loaded.Seal.Set, j.loaded.Digest)
	switch {
	case v.kind == "seal" || v.kind == "manifest":
		c.Caught, c.How = j.noticed(ctx, v, refusal)
	case refusal != nil:
		c.How = "the seal and the manifests could not be read, which were not touched: " + refusal.Error()
	default:
		got, refusal := view.Verify(ctx, l.Manifests[v.m.Engine], true, j.progress)
		c.Caught, c.How = found(v.key, got, refusal)
	}
	return c, nil
}

// noticed says whether a refusal is about the seal or the manifest that was
// broken. A store that is down refuses too, so the whole one is read once more.
func (j *job) noticed(ctx context.Context, v victim, refusal error) (caught bool, how string) {
	if refusal == nil {
		return false, silence
	}
	var wrong *WrongSealError
	if !strings.Contains(refusal.Error(), v.key) && (v.kind != "seal" || !errors.As(refusal, &wrong)) {
		return false, "an error does not name the object: " + refusal.Error()
	}
	if _, err := Load(ctx, j.vault, j.loaded.Seal.Set, j.loaded.Digest); err != nil {
		return false, "it cannot be said, for without the broken byte it fails too: " + err.Error()
	}
	return true, refusal.Error()
}

const silence = "nothing was said"

// found says whether the object with this key is among the findings.
func found(key string, got Verification, err error) (caught bool, how string) {
	if err != nil {
		return false, "it could not be looked at: " + err.Error()
	}
	for _, f := range got.Findings {
		if f.Object == key {
			return true, f.Object + " " + f.What
		}
	}
	if got.Broken > 0 {
		return false, fmt.Sprintf("%s, none about this object", count(got.Broken, "finding"))
	}
	return false, silence
}

// rowControl changes one row in the target and compares once more.
func (j *job) rowControl(ctx context.Context, t Target, m *backup.Manifest) Control {
	c := Control{Name: "one row of " + string(m.Engine)}
	what, err := t.Disturb(ctx, m)
	if c.What = what; err != nil {
		c.How = "no row could be changed: " + err.Error()
		return c
	}
	got, err := t.Compare(ctx, m, j.progress)
	switch {
	case err != nil:
		c.How = "it could not be compared: " + err.Error()
	case len(got.Differences) > 0:
		c.Caught, c.How = true, got.Differences[0].Where+": "+got.Differences[0].What
	default:
		c.How = silence
	}
	return c
}
