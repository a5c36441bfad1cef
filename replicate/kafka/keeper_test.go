package kafka

import (
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/replicate"
)

// hide makes a cluster answer as one whose topics we may not describe any more:
// they are in no list, and it will not say whether they exist.
func hide(fake *kfake.Cluster) {
	fake.ControlKey(int16(kmsg.Metadata), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		fake.KeepControl()
		req := kreq.(*kmsg.MetadataRequest)
		resp := req.ResponseKind().(*kmsg.MetadataResponse)
		resp.ClusterID = kmsg.StringPtr("cluster-a")
		for i, addr := range fake.ListenAddrs() {
			host, port, _ := net.SplitHostPort(addr)
			n, _ := strconv.Atoi(port)
			b := kmsg.NewMetadataResponseBroker()
			b.NodeID, b.Host, b.Port = int32(i), host, int32(n)
			resp.Brokers = append(resp.Brokers, b)
		}
		for _, t := range req.Topics {
			rt := kmsg.NewMetadataResponseTopic()
			rt.Topic, rt.ErrorCode = t.Topic, kerr.TopicAuthorizationFailed.Code
			resp.Topics = append(resp.Topics, rt)
		}
		return resp, nil, true
	})
}

func TestKeeper_ATopicThatIsOnlyHiddenIsNotTakenForDeleted(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "t", 1, nil)
	m := r.start(r.config())
	eventually(t, "mirrored", func() bool { return len(m.Status().Partitions) == 1 })
	hide(r.fakeA)
	eventually(t, "said", func() bool {
		for _, f := range m.Status().Findings {
			if f.About == "t" && strings.Contains(f.Text, "will not say whether it exists") {
				return true
			}
		}
		return false
	})
	if gone := m.Gone(); len(gone) > 0 {
		t.Errorf("taken for deleted: %+v", gone)
	}
	state, err := LookAtCopies(t.Context(), r.a, r.b, map[string]TopicIDs{"t": m.TopicIDs()["t"]})
	if err != nil || state["t"] != CopyHidden {
		t.Errorf("its copy is %q, %v", state["t"], err)
	}
}

func TestKeeper_DriftIsEmptyAfterWhatItPutRight(t *testing.T) {
	r := newRig(t)
	r.topic(r.fakeA, "t", 3, map[string]string{"retention.ms": "3600000"})
	r.topic(r.fakeB, "t", 2, map[string]string{"retention.ms": "7200000", "segment.ms": "600000"})
	r.topic(r.fakeA, "wide", 1, nil)
	r.topic(r.fakeB, "wide", 2, nil) // which is never shrunk
	m := r.start(r.config())
	eventually(t, "compared", func() bool { return !m.Drift().At.IsZero() })
	d := m.Drift()
	if len(d.Drift) != 1 || d.Drift[0].Kind != replicate.DriftPartitions || d.Drift[0].About != "wide" || d.Count(replicate.DriftPartitions) != 1 {
		t.Errorf("%+v", d.Drift)
	}
	eventually(t, "grown", func() bool {
		topics, err := Topics(t.Context(), r.b)
		return err == nil && topics["t"].Partitions == 3
	})
	settings, err := readSettings(t.Context(), r.b, []string{"t"})
	if err != nil || settings["t"]["retention.ms"] != (replicate.Setting{Value: "3600000", Set: true}) || settings["t"]["segment.ms"].Set {
		t.Errorf("%v, %v", settings["t"], err)
	}
	eventually(t, "all three follow", func() bool {
		n := 0
		for _, p := range m.Status().Partitions {
			if p.Topic == "t" {
				n++
			}
		}
		return n == 3
	})
}
