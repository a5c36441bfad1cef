package failover

import (
	"fmt"
	"math"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// lossBound states what a move without the old region may lose, from what the
// mirror last saw: at least what it saw at the source and did not get; at most
// that and what the source may have accepted since, at the rate it had, until
// the last instant at which its lease could have been valid.
func lossBound(s consensus.State, h Health, rules Rules, p consensus.Plan) consensus.LossBound {
	if turnsBack(s, p) {
		if everOpened(s) {
			return consensus.LossBound{Max: math.MaxInt64, Basis: fmt.Sprintf("%s was open and nothing was mirrored from it: nothing is known", p.From)}
		}
		return consensus.LossBound{Basis: fmt.Sprintf("%s never opened: it let nothing in", p.From)}
	}
	if !carriesKafka(s, p) {
		return consensus.LossBound{Basis: "no mirrored role moves"}
	}
	l, ok := h.Links[consensus.LinkOf(p.From, p.To)]
	if !ok || l.Heard < 0 {
		return consensus.LossBound{Max: math.MaxInt64, Basis: "the mirror has not reported: nothing is known"}
	}
	unseen := l.Heard + l.SourceSeen + rules.Lease.TTL
	return consensus.LossBound{
		Min: l.Records, Max: l.Records + int64(math.Ceil(l.Rate*unseen.Seconds())), Rate: l.Rate,
		Basis: fmt.Sprintf("%d records seen and not mirrored; at most %.0f/s for %s unseen (silence %s, ttl %s)",
			l.Records, l.Rate, unseen.Round(100*time.Millisecond), (l.Heard + l.SourceSeen).Round(100*time.Millisecond), rules.Lease.TTL),
	}
}

// lossSeconds is the same bound as an age of data.
func lossSeconds(s consensus.State, h Health, rules Rules, p consensus.Plan) (time.Duration, bool) {
	l, ok := h.Links[consensus.LinkOf(p.From, p.To)]
	if !ok || l.Heard < 0 {
		return 0, false
	}
	return l.Heard + l.SourceSeen + time.Duration(l.Seconds*float64(time.Second)), true
}

// estimatePause adds up what a move waits for. It is an estimate: drills and
// earlier moves measure.
func estimatePause(h Health, rules Rules, p consensus.Plan) time.Duration {
	pause := 2 * time.Second // decisions, claims, offsets
	for _, name := range p.Roles {
		r := rules.Roles[name]
		if p.Kind == consensus.Planned {
			pause = max(pause, 2*time.Second+r.Quiesce)
		} else if p.Fenced == "" {
			pause = max(pause, 2*time.Second+r.FenceWithin)
		}
	}
	if l, ok := h.Links[consensus.LinkOf(p.From, p.To)]; ok && p.Kind == consensus.Planned && containsRole(p, topology.Ingestion) {
		pause += time.Duration(l.Seconds * float64(time.Second))
	}
	return pause
}

func containsRole(p consensus.Plan, role topology.Role) bool {
	for _, r := range p.Roles {
		if r == role {
			return true
		}
	}
	return false
}
