package replicate

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// ACL is one rule of a cluster's authorizer, in the words of Kafka's protocol.
// Two rules that are equal are the same rule: a cluster keeps it once.
type ACL struct {
	Resource   string `json:"resource"` // TOPIC, GROUP, TRANSACTIONAL_ID, CLUSTER, DELEGATION_TOKEN, USER
	Pattern    string `json:"pattern"`  // LITERAL or PREFIXED
	Name       string `json:"name"`     // "*" with LITERAL: all
	Principal  string `json:"principal"`
	Host       string `json:"host"`
	Operation  string `json:"operation"`
	Permission string `json:"permission"` // ALLOW or DENY
}

// String is the rule as a person reads it.
func (a ACL) String() string {
	on := strings.ToLower(strings.ReplaceAll(a.Resource, "_", " ")) + " " + a.Name
	switch {
	case a.Resource == "CLUSTER":
		on = "the cluster"
	case a.Pattern == "PREFIXED":
		on += "… (prefixed)"
	}
	from := ""
	if a.Host != "*" {
		from = " from " + a.Host
	}
	return fmt.Sprintf("%s %s to %s %s%s", strings.ToLower(a.Permission), a.Principal, a.Operation, on, from)
}

// compareACL orders rules by what they are about.
func compareACL(a, b ACL) int {
	return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Pattern, b.Pattern),
		cmp.Compare(a.Principal, b.Principal), cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Permission, b.Permission), cmp.Compare(a.Host, b.Host))
}

// AccessRules say which rights follow the source.
type AccessRules struct {
	Topics Selection
	// Group says whether the offsets of a consumer group follow the source;
	// nil: none do.
	Group func(group string) bool
	// Untouched says whose rules are each cluster's own affair: holdfast's own
	// user at either end, and whom the operator named.
	Untouched func(principal string) bool
}

// reach is how far a rule of the target follows the source.
type reach int

const (
	apart  reach = iota // each cluster has its own
	joined              // added; taken away only when the source was seen to have had it
	bound               // exactly as the source has it
)

// reachOf says how far the rule follows. What names a mirrored topic or group
// is the source's alone. What is wider, such as a wildcard or the cluster, may
// also be about things of the target's own, and an operator may have set it
// there: it is added, and taken away only after the source had it too.
func (r AccessRules) reachOf(a ACL, topics []string) reach {
	if r.Untouched != nil && r.Untouched(a.Principal) || a.Pattern != "LITERAL" && a.Pattern != "PREFIXED" {
		return apart
	}
	prefixed := a.Pattern == "PREFIXED"
	switch a.Resource {
	case "TOPIC":
		switch {
		case !prefixed && a.Name == "*":
			return joined
		case !prefixed && r.Topics.Selects(a.Name):
			return bound
		case prefixed:
			return r.reachOfPrefix(a.Name, topics)
		}
		return apart
	case "GROUP":
		if !prefixed && a.Name != "*" && r.Group != nil && r.Group(a.Name) {
			return bound
		}
		return joined
	case "CLUSTER":
		if a.Operation == "CLUSTER_ACTION" {
			return apart // the brokers' own: without it a cluster stops to replicate
		}
		return joined
	case "TRANSACTIONAL_ID", "DELEGATION_TOKEN", "USER":
		return joined
	}
	return apart // a kind of a newer Kafka, of which we know nothing
}

// reachOfPrefix: a prefix is bound when all topics below it are mirrored, and
// apart when it has topics and none of them is.
func (r AccessRules) reachOfPrefix(prefix string, topics []string) reach {
	if strings.HasPrefix(prefix, "__") {
		return apart
	}
	mirrored, others := 0, 0
	for _, t := range topics {
		switch {
		case !strings.HasPrefix(t, prefix):
		case r.Topics.Selects(t):
			mirrored++
		default:
			others++
		}
	}
	switch {
	case mirrored > 0 && others == 0:
		return bound
	case mirrored == 0 && others > 0:
		return apart
	}
	return joined
}

// AccessPlan is what must change at the target. The order matters: what denies
// is added first and taken away last, so that nobody may do for a moment what
// neither the old nor the new rules let him.
type AccessPlan struct {
	Create []ACL
	Delete []ACL
	// Extra are rules that the source does not have and that are left alone:
	// an operator may have set them.
	Extra []ACL
}

// Empty says that there is nothing to do.
func (p AccessPlan) Empty() bool { return len(p.Create) == 0 && len(p.Delete) == 0 }

// PlanAccess compares the rules of both clusters, given the names of all
// topics of both. had says which rules the source was seen to have before. A
// source without any rule is taken for one that lost them: nothing is deleted.
func PlanAccess(source, target []ACL, topics []string, r AccessRules, had func(ACL) bool) AccessPlan {
	var p AccessPlan
	from, to := setOf(source), setOf(target)
	for a := range from {
		if !to[a] && r.reachOf(a, topics) != apart {
			p.Create = append(p.Create, a)
		}
	}
	for a := range to {
		if from[a] {
			continue
		}
		switch how := r.reachOf(a, topics); {
		case how == apart:
		case len(source) > 0 && (how == bound || had != nil && had(a)):
			p.Delete = append(p.Delete, a)
		default:
			p.Extra = append(p.Extra, a)
		}
	}
	denies := func(a ACL) int {
		if a.Permission == "DENY" {
			return 1
		}
		return 0
	}
	slices.SortFunc(p.Create, func(a, b ACL) int { return cmp.Or(denies(b)-denies(a), compareACL(a, b)) })
	slices.SortFunc(p.Delete, func(a, b ACL) int { return cmp.Or(denies(a)-denies(b), compareACL(a, b)) })
	slices.SortFunc(p.Extra, compareACL)
	return p
}

func setOf(acls []ACL) map[ACL]bool {
	out := make(map[ACL]bool, len(acls))
	for _, a := range acls {
		out[a] = true
	}
	return out
}
