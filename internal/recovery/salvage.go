package recovery

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/holdfast-dr/holdfast/backup"
	"github.com/holdfast-dr/holdfast/backup/repository"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// salvageDir is the directory, in the data directory of a node, that takes the
// salvages of a region without a repository.
const salvageDir = "salvage"

// Salvages is where the orphans of a region are kept: in its repository when it
// has one, else in a directory of its node. Close it.
type Salvages struct {
	*repository.Repository
	close func()
}

// Close ends its connections.
func (s *Salvages) Close() { s.close() }

// Salvages opens that place. identity decrypts; nil: all that needs no private
// key works. A directory is there on the region's own node only.
func (h *Host) Salvages(ctx context.Context, region topology.Region, identity func() (string, error)) (*Salvages, error) {
	if h.o.Fleet.Regions[region].Repository != nil {
		a, err := h.open(ctx, region, identity)
		if err != nil {
			return nil, err
		}
		return &Salvages{a.Repository, a.Close}, nil
	}
	if h.o.Node == "" || h.me.Region != region {
		node, _ := h.o.Fleet.NodeOf(region)
		return nil, fmt.Errorf("open the salvages of %s: that region has no repository, so they lie in the directory %s of %s: ask there", region, filepath.Join(h.o.Fleet.Nodes[node].Data, salvageDir), node)
	}
	rc := repository.Config{
		Store: repository.Dir(filepath.Join(h.me.Data, salvageDir)), Name: "salvages of " + string(region),
		Cluster: h.o.Fleet.Cluster, Region: region, Verifier: h.verifier,
	}
	if h.o.Identity != nil {
		rc.Sign = h.o.Identity
	}
	r, err := repository.Open(ctx, rc)
	if err != nil {
		return nil, err
	}
	return &Salvages{r, func() {}}, nil
}

// Salvaging is a salvage under way.
type Salvaging struct {
	*repository.Salvaging
	at *Salvages
}

// Where says for people where it lies.
func (s *Salvaging) Where() string { return s.at.Name() }

// Close ends its connections.
func (s *Salvaging) Close() { s.at.Close() }

// Salvage begins a salvage of what this node's region accepted, signed by the node.
func (h *Host) Salvage(ctx context.Context, link string, epoch uint64) (*Salvaging, error) {
	at, err := h.Salvages(ctx, h.me.Region, nil)
	if err != nil {
		return nil, err
	}
	v, err := at.Repository.Salvage(backup.Salvage{Link: link, Epoch: epoch, Node: h.o.Node, Version: h.o.Version})
	if err != nil {
		at.Close()
		return nil, err
	}
	return &Salvaging{v, at}, nil
}
