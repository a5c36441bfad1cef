package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/recovery"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/restore"
)

// vaults opens the repositories of a fleet and scratch places for its sets. A
// *recovery.Host is one; it needs no daemon.
type vaults interface {
	Archive(ctx context.Context, region topology.Region, identity func() (string, error)) (recovery.Archive, error)
	Targets(o recovery.TargetOptions) (targets []restore.Target, closeAll func() error, err error)
	Abandoned(ctx context.Context, o recovery.TargetOptions) (found []recovery.Abandoned, closeAll func() error, err error)
}

// openVaults is how the program itself comes to its vaults.
func openVaults(o recovery.Options) (vaults, error) { return recovery.NewHost(o) }

// depot is the repositories that a verb was told to look at.
type depot struct {
	fleet   *config.Fleet
	vaults  vaults
	regions []topology.Region // that have a repository and were asked for
}

// where says which repositories, as flags.
type where struct{ region, ca string }

func (w *where) flags(f *pflag.FlagSet) {
	f.StringVar(&w.region, "region", "", "`region` whose repository is meant (default: every one)")
	f.StringVar(&w.ca, "ca", "", "`file` with the certificates that seals are verified with (default: tls.ca of the node)")
}

// depot reads the fleet file. It dials nothing.
func (a *app) depot(c *cobra.Command, w where) (*depot, error) {
	d, err := a.fleetDepot(c, &w)
	if err != nil {
		return nil, err
	}
	if d.regions, err = repositories(c, d.fleet, topology.Region(w.region)); err != nil {
		return nil, err
	}
	d.vaults, err = a.openVaults(d.fleet, w)
	return d, err
}

// fleetDepot reads the fleet file, and finds what seals are verified with.
func (a *app) fleetDepot(c *cobra.Command, w *where) (*depot, error) {
	path, _ := a.configPath()
	fleet, err := config.Load(path)
	if err != nil {
		return nil, err
	}
	if name := a.nodeName(); name != "" {
		if _, err := fleet.Node(name); err != nil {
			return nil, usage{err.Error()}
		}
	} else if w.ca == "" {
		if w.ca, err = commonCA(c, fleet); err != nil {
			return nil, err
		}
	}
	return &depot{fleet: fleet}, nil
}

func (a *app) openVaults(fleet *config.Fleet, w where) (vaults, error) {
	return a.vaults(recovery.Options{
		Fleet: fleet, Node: a.nodeName(), CAFile: w.ca, Version: thisBuild().Version,
		Log: slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
}

// salvager opens what reads salvages: a region needs no repository for them.
func (a *app) salvager(c *cobra.Command, w *where) (*config.Fleet, salvager, error) {
	d, err := a.fleetDepot(c, w)
	if err != nil {
		return nil, nil, err
	}
	v, err := a.openVaults(d.fleet, *w)
	if err != nil {
		return nil, nil, err
	}
	host, ok := v.(salvager)
	if !ok {
		return nil, nil, errors.New("this host reads no salvages")
	}
	return d.fleet, host, nil
}

// repositories lists the regions that have one: all, or the one named.
func repositories(c *cobra.Command, fleet *config.Fleet, only topology.Region) ([]topology.Region, error) {
	has := slices.DeleteFunc(fleet.RegionNames(), func(r topology.Region) bool { return fleet.Regions[r].Repository == nil })
	switch {
	case len(has) == 0:
		return nil, usagef(c, "no region of the fleet file has a repository: nothing is backed up")
	case only == "":
		return has, nil
	case !slices.Contains(has, only):
		return nil, usagef(c, "--region %s: it has no repository; one is in %s", only, words(has))
	}
	return []topology.Region{only}, nil
}

// commonCA is the file that all nodes trust: a host that is no node, such as a
// laptop in the worst night, may have it under the same name.
func commonCA(c *cobra.Command, fleet *config.Fleet) (string, error) {
	one := ""
	for _, n := range fleet.Nodes {
		if n.TLS.CA == "" || one != "" && n.TLS.CA != one {
			return "", usagef(c, "seals are verified with the fleet's certificates: say which node this host is (--node or HOLDFAST_NODE), or name the file (--ca)")
		}
		one = n.TLS.CA
	}
	return one, nil
}

// shelf is one opened repository with the sets that are in it, newest first.
type shelf struct {
	region  topology.Region
	archive recovery.Archive
	sets    []backup.SetID
}

// open opens one repository and lists its sets. identity may be nil: what
// needs no private key works.
func (d *depot) open(ctx context.Context, region topology.Region, identity func() (string, error)) (shelf, error) {
	archive, err := d.vaults.Archive(ctx, region, identity)
	if err != nil {
		return shelf{}, fmt.Errorf("open the repository of %s: %w", region, err)
	}
	sets, err := archive.Sets(ctx)
	if err != nil {
		return shelf{}, fmt.Errorf("list the sets in the repository of %s: %w", region, err)
	}
	return shelf{region, archive, sets}, nil
}

// reachWait bounds how long one repository is waited for: in the night in which
// it is lost, the others must be seen.
const reachWait = 20 * time.Second

// reached is a repository that was opened, or why it was not.
type reached struct {
	shelf
	err error
}

// openAll opens every repository that was asked for, at once.
func (d *depot) openAll(ctx context.Context, identity func() (string, error)) []reached {
	out := make([]reached, len(d.regions))
	var all sync.WaitGroup
	for i, r := range d.regions {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, reachWait)
			defer cancel()
			out[i].shelf, out[i].err = d.open(ctx, r, identity)
			out[i].region = r
		})
	}
	all.Wait()
	return out
}

// latest is what names the newest set.
const latest = "latest"

// found is a set in a repository.
type found struct {
	shelf
	set backup.SetID
}

// find looks a set up by its id, the start of it, or "latest". What cannot be
// read may be where the set is, so it is an error unless the set was found by
// its name elsewhere.
func (d *depot) find(ctx context.Context, a *app, name string, identity func() (string, error)) (found, error) {
	var matches []found
	var unread error
	for _, s := range d.openAll(ctx, identity) {
		if s.err != nil {
			unread = errors.Join(unread, s.err)
			continue
		}
		for _, id := range s.sets {
			if name == latest || strings.HasPrefix(string(id), strings.ToUpper(name)) {
				matches = append(matches, found{s.shelf, id})
			}
			if name == latest {
				break
			}
		}
	}
	if name == latest {
		if unread != nil && len(d.regions) == 1 {
			return found{}, unread
		}
		if unread != nil {
			return found{}, fmt.Errorf("%w (the newest set of all cannot be told; name one repository with --region)", unread)
		}
		slices.SortFunc(matches, func(a, b found) int { return cmp.Compare(b.set, a.set) })
		if len(matches) == 0 {
			return found{}, usage{fmt.Sprintf("there is no set in the repository of %s: `holdfast backup run` takes one", words(d.regions))}
		}
		return matches[0], nil
	}
	switch {
	case len(matches) == 1:
		if unread != nil {
			a.say("note: %s", oneLine(unread.Error()))
		}
		return matches[0], nil
	case len(matches) > 1 && matches[0].set == matches[len(matches)-1].set:
		return found{}, usage{fmt.Sprintf("set %s is in the repositories of %s and %s: say which, --region", matches[0].set, matches[0].region, matches[1].region)}
	case len(matches) > 1:
		return found{}, usage{fmt.Sprintf("%s start with %s: say more of the id", some(len(matches), "set"), name)}
	case unread != nil:
		return found{}, unread
	}
	return found{}, usage{fmt.Sprintf("no set %s in the repository of %s: `holdfast backup list` shows them", name, words(d.regions))}
}

// logbook is what the daemon's log knows of sets and runs.
type logbook struct {
	answered bool
	sets     map[backup.SetID]consensus.Set
	order    []backup.SetID // newest first
	runs     []httpapi.Run
}

// logWait bounds how long a daemon is waited for by verbs that work without.
const logWait = 10 * time.Second

// logbook asks the daemon. One that does not answer is a note: the sets are in
// the repositories.
func (a *app) logbook(ctx context.Context) logbook {
	ctx, cancel := context.WithTimeout(ctx, logWait)
	defer cancel()
	book := logbook{sets: map[backup.SetID]consensus.Set{}}
	client, err := a.client()
	if err == nil {
		defer client.Close()
		var sets []httpapi.SetRow
		if sets, err = client.Sets(ctx); err == nil {
			for _, s := range sets {
				id := backup.SetID(s.ID)
				book.sets[id], book.order = s.Set, append(book.order, id)
			}
			book.runs, err = client.Runs(ctx, "")
		}
	}
	var unnamed usage
	if errors.As(err, &unnamed) {
		a.say("note: no daemon was asked (--node or --socket names it): nothing is said of live runs, and seals stand on their signature alone")
		return logbook{}
	}
	if err != nil {
		a.say("note: without the daemon (%s) nothing is said of live runs, and seals stand on their signature alone", oneLine(why(err)))
		return logbook{}
	}
	book.answered = true
	return book
}

// why is an error without its remedy.
func why(err error) string {
	var p *httpapi.Problem
	if errors.As(err, &p) {
		return p.Detail
	}
	return err.Error()
}

// digest is what the log says that a seal must be; empty: it does not know.
func (b logbook) digest(set backup.SetID) backup.Digest { return backup.Digest(b.sets[set].Digest) }
