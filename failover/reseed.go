package failover

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// MakeReseed returns a plan that discards what a standby holds of some topics
// and mirrors them anew from the start. topics empty means all with a frozen
// partition. The runner looks whether that can be done before it touches
// anything.
func MakeReseed(now time.Time, s consensus.State, h Health, rules Rules, region topology.Region, topics []string, reason string) (Candidate, []Blocker) {
	var id consensus.LinkID
	var link consensus.Link
	for _, k := range sortedKeys(s.Links) {
		if l := s.Links[k]; l.To == region && l.Phase != consensus.LinkEnded {
			id, link = k, l
		}
	}
	if id == "" {
		return Candidate{}, []Blocker{{"link", fmt.Sprintf("nothing is mirrored to %s", region), "`holdfast mirror status` shows the links"}}
	}
	l := h.Links[id]
	frozen := frozenIn(link, l)
	if len(topics) == 0 {
		for _, f := range frozen {
			topics = append(topics, f.Topic)
		}
	}
	topics = slices.Clone(topics)
	slices.Sort(topics)
	topics = slices.Compact(topics)
	if len(topics) == 0 {
		return Candidate{}, []Blocker{{"topics", "no partition of " + string(id) + " is frozen", "name topics with --topic to mirror them anew all the same"}}
	}
	discards := slices.DeleteFunc(slices.Clone(frozen), func(f FrozenPartition) bool { return !slices.Contains(topics, f.Topic) })
	p := consensus.Plan{
		Kind: consensus.Reseed, From: link.From, To: region, Reason: reason, LinkTurn: s.LinkTurn(),
		Steps: []consensus.Step{
			{Kind: KindReseed, Region: region, Title: fmt.Sprintf("recreate %s in %s", strings.Join(topics, ", "), region), Spec: spec(ReseedSpec{id, topics, discards}), NoReturn: true, Timeout: 5 * time.Minute},
			{Kind: consensus.StepLinkStart, Title: "mirror them anew"},
		},
	}
	g := &judge{}
	g.gate("mode", !s.Settings.Observe, "holdfast acts", "mode is observe: holdfast changes nothing", "set mode: active and run `holdfast config apply`")
	busy := ""
	for _, id := range sortedKeys(s.Plans) {
		if other := s.Plans[id]; other.Phase.Live() {
			busy = fmt.Sprintf("plan %s is %s", id, other.Phase)
		}
	}
	g.gate("one plan at a time", busy == "", "no other plan is live", busy, "`holdfast failover status` shows it; wait for it")
	holds := ""
	for _, name := range sortedKeys(s.Roles) {
		if s.Roles[name].Holder == region {
			holds = string(name)
		}
	}
	g.gate("standby", holds == "", string(region)+" holds no role", string(region)+" holds "+holds, "move it away first: `holdfast failover plan`")
	g.gate("compared", link.Phase == consensus.LinkRunning, "the prefix has been compared", "the link is "+string(link.Phase)+": its prefix has not been compared yet", "wait for the comparison: `holdfast mirror status`")
	g.gate("reason", strings.TrimSpace(reason) != "", "reason: "+reason, "discarding records needs a reason", "--reason \"…\"")
	g.gate("target daemon", h.Regions[region].Alive(rules.HeardWithin), "the daemon of "+string(region)+" reports", "the daemon of "+string(region)+" does not report", "bring it back first")
	for _, topic := range topics {
		var ranges []string
		for _, f := range frozen {
			if f.Topic == topic {
				ranges = append(ranges, fmt.Sprintf("%d:[%d,%d)", f.Partition.Partition, f.From, f.To))
			}
		}
		detail := topic + " has no frozen partition; all of it is copied again"
		if len(ranges) > 0 {
			detail = "discards of " + topic + " " + strings.Join(ranges, " ")
		}
		g.gates = append(g.gates, Gate{Name: "discards " + topic, OK: true, Note: true, Detail: detail})
	}
	p.Hash = hash(s, p, g.gates)
	c := Candidate{Plan: p, Gates: g.gates, Expires: now.Add(rules.Expires)}
	return c, c.Blockers()
}

func reseedTopics(p consensus.Plan) []string {
	for _, s := range p.Steps {
		if s.Kind == KindReseed {
			var r ReseedSpec
			if err := json.Unmarshal(s.Spec, &r); err != nil {
				return nil // written by MakeReseed: it decodes
			}
			return r.Topics
		}
	}
	return nil
}
