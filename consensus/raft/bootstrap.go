package raft

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// bootstrap says what a member without state is waiting for.
type bootstrap struct {
	mu      sync.Mutex
	waiting string
}

func (b *bootstrap) set(why string) (changed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed = b.waiting != why
	b.waiting = why
	return changed
}

func (b *bootstrap) get() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting
}

// identity is what a member tells another that asks who it is.
type identity struct {
	Node    topology.Node   `json:"node"`
	Cluster string          `json:"cluster"`
	Fleet   []topology.Node `json:"fleet"` // the nodes of its fleet file
	State   bool            `json:"state"` // it holds a log or a snapshot
}

const (
	firstStartEvery = 300 * time.Millisecond
	identityTimeout = 2 * time.Second
)

func (n *Node) identity() identity {
	return identity{Node: n.self, Cluster: n.port.c.Identity.Name().Cluster, Fleet: n.port.Peers(), State: n.r.LastIndex() > 0}
}

func (n *Node) serveIdentity(w http.ResponseWriter, _ *http.Request) { reply(w, n.identity()) }

// firstStart runs on a member without state until it has some: from the
// bootstrap, which is its own doing if its name sorts first, or from a leader.
func (n *Node) firstStart() {
	first := n.port.Peers()[0]
	for n.r.LastIndex() == 0 {
		why := fmt.Sprintf("waiting for %s to start the cluster, or for a leader that counts %s as a member", first, n.self)
		if first == n.self {
			err := n.tryBootstrap(n.ctx, true)
			if err == nil {
				continue
			}
			why = "waiting to start the cluster: " + err.Error()
		}
		if n.boot.set(why) && n.ctx.Err() == nil {
			n.log.Info("first start", "state", why)
		}
		select {
		case <-time.After(firstStartEvery):
		case <-n.ctx.Done():
			return
		}
	}
	n.boot.set("")
}

// Bootstrap starts the cluster by hand, with all nodes of the fleet file as
// voters, when the node that should do so is not there. It refuses when this
// node or any node that answers holds state, or reads another fleet file. It
// does not wait for nodes that do not answer, so be sure that none of them
// holds an older cluster's state: that one would be overwritten or overwrite.
func (n *Node) Bootstrap(ctx context.Context) error {
	if n.ctx.Err() != nil {
		return n.ended()
	}
	if err := n.tryBootstrap(ctx, false); err != nil {
		return fmt.Errorf("start the cluster: %w", err)
	}
	n.boot.set("")
	return nil
}

// tryBootstrap bootstraps if no other member speaks against it. With all, it
// wants every one of them to have spoken.
func (n *Node) tryBootstrap(ctx context.Context, all bool) error {
	if n.r.LastIndex() > 0 {
		return fmt.Errorf("%s holds state already: the cluster was started before", n.self)
	}
	if err := n.askAll(ctx, all); err != nil {
		return err
	}
	var c hraft.Configuration
	for _, p := range n.port.Peers() {
		c.Servers = append(c.Servers, hraft.Server{Suffrage: hraft.Voter, ID: hraft.ServerID(p), Address: hraft.ServerAddress(p)})
	}
	err := n.await(ctx, func() error { return n.r.BootstrapCluster(c).Error() })
	if errors.Is(err, hraft.ErrCantBootstrap) {
		return fmt.Errorf("%s got state meanwhile: the cluster has been started", n.self)
	}
	if err != nil {
		return fmt.Errorf("write the first configuration: %w", err)
	}
	n.log.Info("the cluster was started", "members", names(n.port.c.Peers))
	return nil
}

// askAll asks every other node of the fleet file who it is, all at once.
func (n *Node) askAll(ctx context.Context, all bool) error {
	ctx, cancel := context.WithTimeout(ctx, identityTimeout)
	defer cancel()
	peers := n.port.Peers()
	said := make([]error, len(peers))
	var wg sync.WaitGroup
	for i, p := range peers {
		if p != n.self {
			wg.Go(func() { said[i] = n.ask(ctx, p, all) })
		}
	}
	wg.Wait()
	return errors.Join(said...)
}

// ask returns what speaks against a bootstrap on the part of one peer.
func (n *Node) ask(ctx context.Context, p topology.Node, must bool) error {
	theirs, err := n.fetchIdentity(ctx, p)
	ours := n.identity()
	switch {
	case err != nil && must:
		// Not the cause: its wording changes from try to try, and a log line
		// is written when the reason changes.
		n.log.Debug("ask a member who it is", "node", p, "err", err)
		if errors.Is(err, ErrRefused) {
			return err
		}
		return fmt.Errorf("%s does not answer yet", p)
	case err != nil:
		return nil //nolint:nilerr // by hand, who does not answer does not count
	case theirs.State:
		return fmt.Errorf("%s holds the state of a cluster that was started before: %s must join that one: its leader adds it when its fleet file names this node and its data folder is empty", p, n.self)
	case theirs.Cluster != ours.Cluster:
		return fmt.Errorf("%s is of the cluster %q, not %q", p, theirs.Cluster, ours.Cluster)
	case !slices.Equal(theirs.Fleet, ours.Fleet):
		return fmt.Errorf("%s reads another fleet file: it lists %v, ours lists %v; make them the same", p, theirs.Fleet, ours.Fleet)
	}
	return nil
}

func (n *Node) fetchIdentity(ctx context.Context, p topology.Node) (who identity, err error) {
	client, base, err := n.port.ControlClient(p)
	if err != nil {
		return who, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+pathIdentity, http.NoBody)
	if err != nil {
		return who, fmt.Errorf("ask %s who it is: %w", p, err)
	}
	res, err := client.Do(req)
	if err != nil {
		return who, fmt.Errorf("ask %s who it is: %w", p, err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(res.Body, answerBytesMax))
	if err != nil || res.StatusCode != http.StatusOK {
		return who, fmt.Errorf("ask %s who it is: %s %s: %w", p, res.Status, strings.TrimSpace(string(b)), err)
	}
	if err := json.Unmarshal(b, &who); err != nil {
		return who, fmt.Errorf("ask %s who it is: %w", p, err)
	}
	return who, nil
}
