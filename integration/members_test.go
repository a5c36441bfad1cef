//go:build integration

package integration

import (
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/integration/fleet"
	"github.com/holdfast-dr/holdfast/integration/stack"
)

// TestMembers_ANodeMoreAndOneLess follows docs/operations.md: the fleet file,
// restarts one by one, config apply; the votes follow, and the holder of a
// role is never taken down.
func TestMembers_ANodeMoreAndOneLess(t *testing.T) {
	stack.Need(t, stack.NeedKafka, stack.NeedClickHouse)
	binary := filepath.Join(t.TempDir(), "holdfast")
	if err := fleet.Build(t.Context(), binary); err != nil {
		t.Fatal(err)
	}
	f, err := fleet.Start(t.Context(), fleet.Options{Dir: t.TempDir(), Binary: binary, Topics: []string{"events"},
		Roles: map[string]fleet.RoleOptions{"ingestion": {Initial: "us-east"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := f.StartNodes(t.Context()); err != nil {
		t.Fatal(err)
	}
	holder := f.Nodes["us-east-1"]
	restart := func() {
		t.Helper()
		for _, name := range []string{"witness-1", "eu-west-1", "us-east-1"} { // the holder last
			if err := f.Nodes[name].Stop(); err != nil {
				t.Fatal(err)
			}
			if err := f.Nodes[name].Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := f.Nodes[name].WaitJoined(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	apply := func() {
		t.Helper()
		if out, errOut, err := holder.CLI(t.Context(), "config", "apply"); err != nil {
			t.Fatalf("config apply: %v\n%s%s", err, out, errOut)
		}
	}
	votes := func(want ...string) error {
		m, err := holder.Client().Members(t.Context())
		if err != nil {
			return err
		}
		var have []string
		for _, n := range m.Members {
			if n.Voter {
				have = append(have, string(n.Node))
			}
		}
		slices.Sort(have)
		if !slices.Equal(have, want) {
			return fmt.Errorf("votes: %v, want %v", have, want)
		}
		code, body, err := holder.Get(t.Context(), "/v1/role/ingestion/active")
		if err == nil && code != 200 {
			err = fmt.Errorf("the holder answers %d: %s", code, body)
		}
		return err
	}
	await(t, 30*time.Second, func() error { return votes("eu-west-1", "us-east-1", "witness-1") })

	more, err := f.AddWitness("witness-2")
	if err != nil {
		t.Fatal(err)
	}
	restart()
	if err := more.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	apply()
	await(t, 30*time.Second, func() error { return votes("eu-west-1", "us-east-1", "witness-1", "witness-2") })
	if err := more.WaitJoined(t.Context()); err != nil {
		t.Fatal(err)
	}

	if err := f.DropNode("witness-2"); err != nil {
		t.Fatal(err)
	}
	restart()
	apply()
	await(t, 30*time.Second, func() error { return votes("eu-west-1", "us-east-1", "witness-1") })
	if err := more.Kill(); err != nil {
		t.Fatal(err)
	}
	await(t, 30*time.Second, func() error { return votes("eu-west-1", "us-east-1", "witness-1") })
}
