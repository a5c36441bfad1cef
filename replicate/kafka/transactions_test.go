package kafka

import (
	"errors"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/replicate"
)

// leaveOpen begins a transaction, writes a record and walks away.
func (r *rig) leaveOpen(cl *kafka.Client, id, topic string) *kafka.Client {
	r.t.Helper()
	p, err := cl.Another(kgo.TransactionalID(id), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(p.Close)
	if err := p.Kgo.BeginTransaction(); err != nil {
		r.t.Fatal(err)
	}
	if err := p.Kgo.ProduceSync(r.t.Context(), &kgo.Record{Topic: topic, Value: []byte("never committed")}).FirstErr(); err != nil {
		r.t.Fatal(err)
	}
	return p
}

func TestCloseTransactions_EndsThoseOfTheMirroredTopics(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.topic(r.fakeA, "elsewhere", 1, nil)
	sel := replicate.Only("events")
	if ended, err := CloseTransactions(t.Context(), r.a, sel); len(ended) != 0 || err != nil {
		t.Fatalf("none is open: %v %v", ended, err)
	}
	mine := r.leaveOpen(r.a, "tx-events", "events")
	r.leaveOpen(r.a, "tx-elsewhere", "elsewhere")
	ended, err := CloseTransactions(t.Context(), r.a, sel)
	if err != nil || len(ended) != 1 || ended[0] != "tx-events" {
		t.Fatalf("ended %v, %v", ended, err)
	}
	if why, err := unstable(t.Context(), r.a, sel); err != nil || len(why) != 0 {
		t.Errorf("its end is not stable: %v %v", why, err)
	}
	if ended, err := CloseTransactions(t.Context(), r.a, sel); len(ended) != 0 || err != nil {
		t.Errorf("a second time: %v %v", ended, err)
	}
	if err := mine.Kgo.ProduceSync(t.Context(), &kgo.Record{Topic: "events"}).FirstErr(); err == nil {
		t.Error("the producer that was taken over goes on")
	}
}

func TestCloseTransactions_SayWhatTheyMayNotEnd(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "events", 1, nil)
	r.leaveOpen(r.a, "tx-events", "events")
	f := r.fakeA.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.InitProducerID}, Err: kerr.TransactionalIDAuthorizationFailed, Count: -1})
	_, err := CloseTransactions(t.Context(), r.a, replicate.Only("events"))
	var open *OpenTransactionsError
	if !errors.As(err, &open) || !strings.Contains(err.Error(), "tx-events") || !strings.Contains(err.Error(), "WRITE on the transactional ids") {
		t.Errorf("may not be ended: %v", err)
	}
	f.Remove()
	f = r.fakeA.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.ListTransactions}, Err: kerr.CoordinatorLoadInProgress, Count: -1})
	defer f.Remove()
	if _, err := CloseTransactions(t.Context(), r.a, replicate.Only("events")); err == nil {
		t.Error("a list that is short was taken for whole")
	}
}
