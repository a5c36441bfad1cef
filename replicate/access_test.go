package replicate

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func accessRules(t testing.TB) AccessRules {
	t.Helper()
	topics, err := NewSelection([]string{"events", "ingest-.*"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return AccessRules{
		Topics:    topics,
		Group:     func(g string) bool { return g == "readers" },
		Untouched: func(p string) bool { return p == "User:holdfast" || p == "User:admin" },
	}
}

func acl(resource, pattern, name, principal, operation, permission string) ACL {
	return ACL{resource, pattern, name, principal, "*", operation, permission}
}

var accessTopics = []string{"events", "ingest-a", "ingest-b", "local-a", "local-b", "infra"}

func TestPlanAccess_WhatNamesAMirroredTopicFollowsTheSourceAlone(t *testing.T) {
	had := acl("CLUSTER", "LITERAL", "kafka-cluster", "User:a", "ALTER", "ALLOW")
	for _, c := range []struct {
		about string
		rule  ACL
		// what becomes of the rule when only the source has it, and when only the target has it
		created, deleted bool
	}{
		{"a mirrored topic", acl("TOPIC", "LITERAL", "events", "User:a", "READ", "ALLOW"), true, true},
		{"another topic", acl("TOPIC", "LITERAL", "infra", "User:a", "READ", "ALLOW"), false, false},
		{"holdfast's own user", acl("TOPIC", "LITERAL", "events", "User:holdfast", "WRITE", "DENY"), false, false},
		{"whom the operator keeps", acl("TOPIC", "LITERAL", "events", "User:admin", "ALL", "ALLOW"), false, false},
		{"a prefix of mirrored topics", acl("TOPIC", "PREFIXED", "ingest-", "User:a", "WRITE", "ALLOW"), true, true},
		{"a prefix of other topics", acl("TOPIC", "PREFIXED", "local-", "User:a", "WRITE", "ALLOW"), false, false},
		{"a prefix of both", acl("TOPIC", "PREFIXED", "in", "User:a", "WRITE", "ALLOW"), true, false},
		{"a prefix of nothing yet", acl("TOPIC", "PREFIXED", "new-", "User:a", "WRITE", "ALLOW"), true, false},
		{"Kafka's own topics", acl("TOPIC", "PREFIXED", "__", "User:a", "READ", "ALLOW"), false, false},
		{"all topics", acl("TOPIC", "LITERAL", "*", "User:a", "DESCRIBE", "ALLOW"), true, false},
		{"a mirrored group", acl("GROUP", "LITERAL", "readers", "User:a", "READ", "ALLOW"), true, true},
		{"another group", acl("GROUP", "LITERAL", "monitors", "User:a", "READ", "ALLOW"), true, false},
		{"groups by prefix", acl("GROUP", "PREFIXED", "read", "User:a", "READ", "ALLOW"), true, false},
		{"transactional ids", acl("TRANSACTIONAL_ID", "PREFIXED", "tx-", "User:a", "WRITE", "ALLOW"), true, false},
		{"the cluster", acl("CLUSTER", "LITERAL", "kafka-cluster", "User:a", "CREATE", "ALLOW"), true, false},
		{"the cluster, seen at the source before", had, true, true},
		{"the brokers", acl("CLUSTER", "LITERAL", "kafka-cluster", "User:broker", "CLUSTER_ACTION", "ALLOW"), false, false},
		{"a kind of a newer Kafka", acl("UNKNOWN", "LITERAL", "x", "User:a", "READ", "ALLOW"), false, false},
	} {
		other := acl("TOPIC", "LITERAL", "events", "User:b", "READ", "ALLOW") // at both ends
		seen := func(a ACL) bool { return a == had }
		p := PlanAccess([]ACL{other, c.rule}, []ACL{other}, accessTopics, accessRules(t), seen)
		if got := slices.Contains(p.Create, c.rule); got != c.created || len(p.Delete) > 0 {
			t.Errorf("%s, only at the source: created %t, want %t; deleted %v", c.about, got, c.created, p.Delete)
		}
		p = PlanAccess([]ACL{other}, []ACL{other, c.rule}, accessTopics, accessRules(t), seen)
		if got := slices.Contains(p.Delete, c.rule); got != c.deleted || len(p.Create) > 0 {
			t.Errorf("%s, only at the target: deleted %t, want %t; created %v", c.about, got, c.deleted, p.Create)
		}
		if extra := slices.Contains(p.Extra, c.rule); extra != (c.created && !c.deleted) {
			t.Errorf("%s, only at the target: named as extra %t", c.about, extra)
		}
	}
}

func TestPlanAccess_ASourceWithoutAnyRuleTakesNoneAway(t *testing.T) {
	target := []ACL{acl("TOPIC", "LITERAL", "events", "User:a", "READ", "ALLOW")}
	p := PlanAccess(nil, target, accessTopics, accessRules(t), func(ACL) bool { return true })
	if diff := cmp.Diff(AccessPlan{Extra: target}, p); diff != "" {
		t.Error(diff)
	}
}

func TestPlanAccess_DeniesFirstAndTakesDenialsAwayLast(t *testing.T) {
	allow, deny := acl("TOPIC", "LITERAL", "events", "User:a", "READ", "ALLOW"), acl("TOPIC", "LITERAL", "events", "User:a", "READ", "DENY")
	other := acl("TOPIC", "LITERAL", "events", "User:z", "READ", "ALLOW")
	if diff := cmp.Diff([]ACL{deny, allow}, PlanAccess([]ACL{allow, deny}, nil, nil, accessRules(t), nil).Create); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]ACL{allow, deny}, PlanAccess([]ACL{other}, []ACL{other, deny, allow}, nil, accessRules(t), nil).Delete); diff != "" {
		t.Error(diff)
	}
}

func drawACLs(t *rapid.T, label string) []ACL {
	of := func(label string, from ...string) string { return rapid.SampledFrom(from).Draw(t, label) }
	n := rapid.IntRange(0, 12).Draw(t, label)
	var out []ACL
	for range n {
		out = append(out, ACL{
			of("resource", "TOPIC", "GROUP", "CLUSTER", "TRANSACTIONAL_ID", "USER"), of("pattern", "LITERAL", "PREFIXED"),
			of("name", "events", "ingest-", "local-", "readers", "*", "kafka-cluster", "__"), of("principal", "User:holdfast", "User:admin", "User:a", "User:b"),
			of("host", "*", "10.0.0.1"), of("operation", "READ", "WRITE", "ALL", "CLUSTER_ACTION"), of("permission", "ALLOW", "DENY"),
		})
	}
	return out
}

// Whatever both sides hold: what belongs to somebody else stays, and after one
// round what names mirrored things is exactly the source's.
func TestPlanAccess_OneRoundIsEnoughAndTouchesNobodyElses(t *testing.T) {
	r := accessRules(t)
	rapid.Check(t, func(t *rapid.T) {
		source, target := drawACLs(t, "source"), drawACLs(t, "target")
		had := setOf(drawACLs(t, "had"))
		seen := func(a ACL) bool { return had[a] }
		p := PlanAccess(source, target, accessTopics, r, seen)
		for _, a := range slices.Concat(p.Create, p.Delete) {
			if r.Untouched(a.Principal) || a.Operation == "CLUSTER_ACTION" && a.Resource == "CLUSTER" || strings.HasPrefix(a.Name, "__") && a.Resource == "TOPIC" {
				t.Fatalf("touched %s", a)
			}
		}
		after := setOf(target)
		for _, a := range p.Create {
			after[a] = true
		}
		for _, a := range p.Delete {
			if setOf(source)[a] {
				t.Fatalf("deleted %s, which the source has", a)
			}
			delete(after, a)
		}
		var now []ACL
		for a := range after {
			now = append(now, a)
		}
		if again := PlanAccess(source, now, accessTopics, r, seen); !again.Empty() {
			t.Fatalf("still to do: %+v", again)
		}
		for a := range after {
			if len(source) > 0 && r.reachOf(a, accessTopics) == bound && !setOf(source)[a] {
				t.Fatalf("%s stayed", a)
			}
		}
	})
}
