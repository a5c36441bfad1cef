package daemon

import (
	"context"
	"maps"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
	"github.com/holdfast-dr/holdfast/replicate"
	mirror "github.com/holdfast-dr/holdfast/replicate/kafka"
)

// later is a wall clock that is ahead.
type later struct {
	*bubble
	ahead time.Duration
}

func (l later) Wall() time.Time { return time.Now().Add(l.ahead) }

// fakeRegion is a region with a Kafka in memory.
func fakeRegion(t *testing.T, name topology.Region) *region {
	t.Helper()
	fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.ClusterID("of-"+string(name)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(fake.Close)
	cl, err := kafka.Open(kafka.Config{Name: string(name), Brokers: fake.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return &region{name: name, kafka: cl, timeout: 5 * time.Second}
}

// TestTombstones_ACopyOutlivesItsTopicOverARestartAndNeverAnotherTopic deletes
// a mirrored topic at the source, restarts the daemon, makes another topic of
// the name, deletes that too, and lets the time pass.
func TestTombstones_ACopyOutlivesItsTopicOverARestartAndNeverAnotherTopic(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	id := consensus.LinkOf(east, west)
	regions := map[topology.Region]*region{east: fakeRegion(t, east), west: fakeRegion(t, west)}
	a, b := regions[east].kafka, regions[west].kafka
	log := &memory{s: consensus.NewState(), tells: make(chan struct{}, 1)}
	log.s.Links[id] = consensus.Link{From: east, To: west, Epoch: 1, Phase: consensus.LinkRunning}
	life := func() *mirrors {
		m := newMirrors(time.Time{})
		m.regions, m.propose, m.state = regions, log, log.state
		m.topics, m.compare = replicate.Only("old", "kept"), 200*time.Millisecond
		m.mu.Lock()
		defer m.mu.Unlock()
		m.start(ctx, id, log.state().Links[id])
		return m
	}
	until := func(what string, so func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); !so(); time.Sleep(50 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: not in 30 s", what)
			}
		}
	}
	copies := func() map[string]replicate.Topic {
		t.Helper()
		topics, err := mirror.Topics(ctx, b)
		if err != nil {
			t.Fatal(err)
		}
		return topics
	}
	drop := func(topic string) {
		t.Helper()
		if _, err := a.Admin.DeleteTopic(ctx, topic); err != nil {
			t.Fatal(err)
		}
	}
	create := func(topic string) {
		t.Helper()
		if _, err := a.Admin.CreateTopic(ctx, 2, 1, nil, topic); err != nil {
			t.Fatal(err)
		}
	}
	create("old")
	create("kept")
	first := life()
	until("mirrored", func() bool { return len(first.reports()[id].Status.Partitions) == 4 })
	copied := copies()["old"].ID

	drop("old")
	until("a tombstone", func() bool {
		first.entombLink(ctx, id, log.state().Links[id])
		return len(log.state().Tombstones[id]) == 1
	})
	stone := log.state().Tombstones[id]["old"]
	if stone.Target != copied.String() || stone.Epoch != 1 || time.Since(stone.At) > 30*time.Second {
		t.Errorf("%+v", stone)
	}
	until("nothing frozen", func() bool { s := first.reports()[id].Status; return len(s.Partitions) == 2 && s.Totals.Frozen == 0 })
	first.stopAll()

	// Another life, with no memory but the log.
	second := life()
	defer second.stopAll()
	until("known as gone again", func() bool { return len(second.gone(id, 1)) == 1 })
	second.entombLink(ctx, id, log.state().Links[id])
	if got := log.state().Tombstones[id]["old"]; got != stone || copies()["old"].ID != copied {
		t.Errorf("the tombstone is %+v, it was %+v; the copy is %s", got, stone, copies()["old"].ID)
	}

	// Another topic of the name: nothing of it comes here, and its copy of the
	// former one is not deleted, however late it is.
	create("old")
	until("frozen", func() bool { return second.reports()[id].Status.Totals.Frozen == 2 })
	second.delete, second.clock = 24*time.Hour, later{newBubble(), 48 * time.Hour}
	second.entombLink(ctx, id, log.state().Links[id])
	if len(log.state().Tombstones[id]) != 1 || copies()["old"].ID != copied {
		t.Fatal("the copy went although the source has a topic of this name")
	}
	drop("old")
	second.clock = newBubble()
	second.entombLink(ctx, id, log.state().Links[id])
	if copies()["old"].ID != copied {
		t.Fatal("the copy went before its time")
	}
	// While a plan is live it stays.
	second.clock = later{newBubble(), 48 * time.Hour}
	log.s.Plans = map[consensus.PlanID]consensus.Plan{"p": {Phase: consensus.PlanRunning}}
	second.entombLink(ctx, id, log.state().Links[id])
	if copies()["old"].ID != copied {
		t.Fatal("the copy went during a plan")
	}
	log.s.Plans = nil
	second.entombLink(ctx, id, log.state().Links[id])
	if _, there := copies()["old"]; there || len(log.state().Tombstones) != 0 {
		t.Errorf("its time is over: there %t, tombstones %v", there, log.state().Tombstones)
	}
	if _, there := copies()["kept"]; !there {
		t.Error("another topic went with it")
	}
	last, ok := log.took[len(log.took)-1].(*consensus.DropTombstone)
	if !ok || !last.Deleted {
		t.Errorf("the log ends with %+v", log.took[len(log.took)-1])
	}
}

func TestTombstones_OfAnotherEpochAreDroppedAndTheCopyKept(t *testing.T) {
	id := consensus.LinkOf(east, west)
	regions := map[topology.Region]*region{east: fakeRegion(t, east), west: fakeRegion(t, west)}
	log := &memory{s: consensus.NewState(), tells: make(chan struct{}, 1)}
	log.s.Links[id] = consensus.Link{From: east, To: west, Epoch: 2, Phase: consensus.LinkRunning}
	if _, err := regions[west].kafka.Admin.CreateTopic(t.Context(), 1, 1, nil, "old"); err != nil {
		t.Fatal(err)
	}
	topics, err := mirror.Topics(t.Context(), regions[west].kafka)
	if err != nil {
		t.Fatal(err)
	}
	log.s.Tombstones = map[consensus.LinkID]map[string]consensus.Tombstone{id: {"old": {Epoch: 1, TopicPair: consensus.TopicPair{Source: replicate.TopicID{1}.String(), Target: topics["old"].ID.String()}}}}
	m := newMirrors(time.Time{})
	m.regions, m.propose, m.state, m.delete = regions, log, log.state, time.Hour
	m.entombLink(t.Context(), id, log.s.Links[id])
	if len(log.s.Tombstones) != 0 {
		t.Errorf("still there: %v", log.s.Tombstones)
	}
	after, err := mirror.Topics(t.Context(), regions[west].kafka)
	if err != nil || !maps.Equal(idsOf(topics), idsOf(after)) {
		t.Errorf("the copy is gone (%v)", err)
	}
}

func idsOf(topics map[string]replicate.Topic) map[string]replicate.TopicID {
	out := map[string]replicate.TopicID{}
	for name, t := range topics {
		out[name] = t.ID
	}
	return out
}
