package raft

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	hraft "github.com/hashicorp/raft"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Member is one member of the cluster, as this node sees it.
type Member struct {
	Node    topology.Node `json:"node"`
	Address string        `json:"address,omitempty"` // by our fleet file; empty when it is not in it
	Voter   bool          `json:"voter"`
	Leader  bool          `json:"leader"`
	Self    bool          `json:"self"`
	// LastContact is when this node last heard from it. It is zero when not
	// known: a follower hears only from the leader.
	LastContact time.Time `json:"last_contact,omitzero"`
	// RTT is the 99th percentile of the last heartbeats, when this node leads.
	RTT time.Duration `json:"rtt,omitempty"`
}

// Members returns the members in the latest configuration, by name.
func (n *Node) Members() []Member {
	leader, _ := n.Leader()
	leads := n.r.State() == hraft.Leader
	var all []Member
	for _, s := range n.servers() {
		m := Member{
			Node: topology.Node(s.ID), Address: n.port.c.Peers[topology.Node(s.ID)], Voter: s.Suffrage == hraft.Voter,
			Leader: topology.Node(s.ID) == leader, Self: topology.Node(s.ID) == n.self,
		}
		switch {
		case m.Self:
			m.LastContact = time.Now()
		case leads:
			m.LastContact, m.RTT = n.trans.contactWith(s.ID)
		case m.Leader:
			m.LastContact = n.r.LastContact()
		}
		all = append(all, m)
	}
	slices.SortFunc(all, func(a, b Member) int { return cmp.Compare(a.Node, b.Node) })
	return all
}

func (n *Node) servers() []hraft.Server { return n.r.GetConfiguration().Configuration().Servers }

// Status is this node's own standing.
type Status struct {
	Node   topology.Node `json:"node"`
	State  string        `json:"state"`  // leader, follower, candidate, or shutdown
	Leader topology.Node `json:"leader"` // empty when none is known
	Term   uint64        `json:"term"`
	// Applied is the last command in State; Last is the last log entry here,
	// Commit the last one known to be agreed.
	Applied consensus.Index `json:"applied"`
	Commit  consensus.Index `json:"commit"`
	Last    consensus.Index `json:"last"`
	// LastContact is when a follower last heard from a leader.
	LastContact time.Time `json:"last_contact,omitzero"`
	// Waiting says what a node without state waits for. Empty: it has state.
	Waiting string `json:"waiting,omitempty"`
	// Halted says why the node does not take part any more.
	Halted string `json:"halted,omitempty"`
}

// Status returns this node's own standing. It never waits.
func (n *Node) Status() Status {
	leader, term := n.Leader()
	s := Status{
		Node: n.self, Leader: leader, Term: term, Waiting: n.boot.get(),
		Applied: n.machine.now.Load().index, Commit: consensus.Index(n.r.CommitIndex()), Last: consensus.Index(n.r.LastIndex()),
	}
	switch n.r.State() {
	case hraft.Leader:
		s.State = "leader"
	case hraft.Candidate:
		s.State, s.LastContact = "candidate", n.r.LastContact()
	case hraft.Follower:
		s.State, s.LastContact = "follower", n.r.LastContact()
	default:
		s.State = "shutdown"
	}
	if err := n.Err(); err != nil {
		s.Halted = err.Error()
	}
	return s
}

// change is a change of membership, as it travels to the leader.
type change struct {
	Op   string        `json:"op"` // add, remove
	Node topology.Node `json:"node"`
}

// AddMember makes a node of the fleet file a voting member, or waits for
// nothing if it is one. Start its daemon with an empty data folder first.
// Errors are as of Propose.
func (n *Node) AddMember(ctx context.Context, node topology.Node) error {
	return n.changeMembers(ctx, change{"add", node})
}

// RemoveMember takes a member out. It must not be the leader, nor the last
// voter. Errors are as of Propose.
func (n *Node) RemoveMember(ctx context.Context, node topology.Node) error {
	return n.changeMembers(ctx, change{"remove", node})
}

func (n *Node) changeMembers(ctx context.Context, c change) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeoutMax)
	defer cancel()
	if n.ctx.Err() != nil {
		return &notProposed{why: string(n.self) + " has stopped", cause: n.ended()}
	}
	if n.r.State() == hraft.Leader {
		_, err := n.applyChange(ctx, c)
		return err
	}
	leader, _ := n.Leader()
	if leader == "" || leader == n.self {
		return &notProposed{why: string(n.self) + " knows no leader"}
	}
	body, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode a change of members: %w", err)
	}
	_, err = n.forward(ctx, leader, pathMembers, body)
	return err
}

func (n *Node) serveMembers(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := forwarded(r)
	defer cancel()
	var c change
	if err := json.NewDecoder(r.Body).Decode(&c); err != nil {
		http.Error(w, "read the change of members: "+err.Error(), http.StatusBadRequest)
		return
	}
	reply(w, answerOf(n.applyChange(ctx, c))) //nolint:contextcheck // ctx is derived from the request by forwarded
}

// applyChange changes the membership on the leader.
func (n *Node) applyChange(ctx context.Context, c change) (consensus.Index, error) {
	if n.r.State() != hraft.Leader {
		return 0, &notProposed{why: string(n.self) + " does not lead"}
	}
	if err := n.checkChange(c); err != nil {
		return 0, err
	}
	var index consensus.Index
	err := n.await(ctx, func() error {
		var f hraft.IndexFuture
		switch c.Op {
		case "add":
			f = n.r.AddVoter(hraft.ServerID(c.Node), hraft.ServerAddress(c.Node), 0, n.c.Timings.Election)
		default:
			f = n.r.RemoveServer(hraft.ServerID(c.Node), 0, n.c.Timings.Election)
		}
		err := f.Error()
		if err == nil {
			index = consensus.Index(f.Index())
		}
		return err
	})
	switch {
	case err == nil:
		n.log.Info("members changed", "change", c.Op, "node", c.Node)
		return index, nil
	case errors.Is(err, ErrStopped), errors.Is(err, hraft.ErrNotLeader), errors.Is(err, hraft.ErrLeadershipTransferInProgress), errors.Is(err, hraft.ErrEnqueueTimeout):
		return 0, &notProposed{why: string(n.self) + " does not take changes now", cause: err}
	}
	return 0, unknownOutcome(err)
}

func (n *Node) checkChange(c change) error {
	voters := 0
	for _, s := range n.servers() {
		if s.Suffrage == hraft.Voter && s.ID != hraft.ServerID(c.Node) {
			voters++
		}
	}
	refuse := func(code, format string, args ...any) error {
		return &consensus.Refusal{Code: code, Why: fmt.Sprintf(format, args...)}
	}
	_, known := n.port.c.Peers[c.Node]
	switch {
	case c.Op != "add" && c.Op != "remove":
		return refuse(consensus.CodeInvalid, "the leader %s does not know the change %q: upgrade it first", n.self, c.Op)
	case c.Op == "add" && !known:
		return refuse(consensus.CodeMissing, "%s is not a node of the fleet file of the leader %s (%s): add it there first, on every node", c.Node, n.self, names(n.port.c.Peers))
	case c.Op == "remove" && c.Node == n.self:
		return refuse(consensus.CodeConflict, "%s leads: hand leadership over first, then remove it", c.Node)
	case c.Op == "remove" && voters == 0:
		return refuse(consensus.CodeConflict, "%s is the last voter", c.Node)
	}
	return nil
}
