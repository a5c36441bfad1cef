//go:build integration

package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestKafkaCluster_KeepsAcknowledgedRecordsWithAnyNodeGone(t *testing.T) {
	c := RunKafkaCluster(t, KafkaOptions{}, 3)
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Bootstrap()...), kgo.MetadataMinAge(100*time.Millisecond), kgo.RequestTimeoutOverhead(3*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	if _, err := admin.CreateTopic(t.Context(), 1, -1, nil, "events"); err != nil {
		t.Fatal(err)
	}
	leader := func() (leader int, insync int) {
		t.Helper()
		topics, err := admin.ListTopics(t.Context(), "events")
		if err != nil {
			t.Fatal(err)
		}
		p := topics["events"].Partitions[0]
		if len(p.Replicas) != 3 {
			t.Fatalf("%d copies, want 3", len(p.Replicas))
		}
		return int(p.Leader), len(p.ISR)
	}
	send := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			err := client.ProduceSync(ctx, &kgo.Record{Topic: "events", Value: fmt.Append(nil, i)}).FirstErr()
			cancel()
			if err != nil {
				t.Fatalf("record %d: %v", i, err)
			}
		}
	}
	send(0, 50)
	killed, _ := leader()
	if err := c.Node(killed).Kill(); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	send(50, 100)
	t.Logf("records are acknowledged again %.1f s after the leader was killed", time.Since(begun).Seconds())
	if err := c.Node(killed).Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if _, insync := leader(); insync == 3 {
			break
		}
		if time.Now().After(until) {
			t.Fatal("the killed node never came back into sync")
		}
	}
	paused, _ := leader()
	if err := c.Node(paused).Pause(); err != nil {
		t.Fatal(err)
	}
	begun = time.Now()
	send(100, 150)
	t.Logf("records are acknowledged again %.1f s after the leader stood still", time.Since(begun).Seconds())
	if now, _ := leader(); now == paused {
		t.Error("the node that stands still still leads")
	}
	if err := c.Node(paused).Resume(); err != nil {
		t.Fatal(err)
	}
	// A Java client sees every record once, in order, from one node alone.
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	out, err := JavaTool(ctx, "3.6.2", "kafka.tools.ConsoleConsumer", "--bootstrap-server", c.Bootstrap()[(paused+1)%3], "--topic", "events", "--from-beginning", "--max-messages", "150")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for i := range 150 {
		fmt.Fprintln(&want, i)
	}
	if out != want.String() {
		t.Errorf("the Java consumer read %q", out)
	}
}

func TestKafka_UsersMayDoWhatAnACLAllows(t *testing.T) {
	versions := KafkaVersions()
	if v := os.Getenv("HOLDFAST_KAFKA"); v != "" {
		versions = []string{v}
	}
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			k := RunKafka(t, KafkaOptions{Version: version, Users: []string{"mirror", "app"}})
			if info, err := os.Stat(k.Dir() + "/users.conf"); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the file of passwords: %v, %v; want mode 0600", info, err)
			}
			admin := kafkaClient(t, k, k.ClientOptions(Admin)...)
			createTopic(t, admin, "events")
			write := func(user string) error {
				t.Helper()
				c := kafkaClient(t, k, append(k.ClientOptions(user), kgo.DisableIdempotentWrite())...)
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				return c.ProduceSync(ctx, &kgo.Record{Topic: "events", Value: []byte(user)}).FirstErr()
			}
			if err := write("mirror"); !errors.Is(err, kerr.TopicAuthorizationFailed) {
				t.Errorf("a user without an ACL writes: %v", err)
			}
			acls := kadm.NewACLs().Topics("events").ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpWrite, kadm.OpDescribe).Allow("User:mirror").AllowHosts("*")
			if _, err := kadm.NewClient(admin).CreateACLs(t.Context(), acls); err != nil {
				t.Fatal(err)
			}
			for until := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				if err := write("mirror"); err == nil {
					break
				} else if time.Now().After(until) {
					t.Fatalf("a user with an ACL may not write: %v", err)
				}
			}
			if err := write("app"); !errors.Is(err, kerr.TopicAuthorizationFailed) {
				t.Errorf("another user writes too: %v", err)
			}
			stranger := kafkaClient(t, k)
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			if err := stranger.Ping(ctx); err == nil {
				t.Error("a client that does not log in is served")
			}
		})
	}
}
