package kafka

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/holdfast-dr/holdfast/replicate"
)

// BenchmarkMirror is the cost of the mirror itself: a source that serves the
// same batch for ever, a target that throws everything away. One operation is
// one mebibyte of stored bytes. The two fake clusters run in the same process
// and take their share of the time.
func BenchmarkMirror(b *testing.B) {
	for name, batch := range map[string]kfake.SyntheticBatch{
		"batches-of-100": {Records: 100, RecordBytes: 1000},
		"single-records": {Records: 1, RecordBytes: 500},
	} {
		b.Run(name, func(b *testing.B) {
			r := &rig{t: b, link: replicate.Link{Source: "a", Target: "b", Epoch: 1}, log: newRigLog(), requestTimeout: 5 * time.Second}
			r.fakeA, r.a = r.cluster("a", kfake.SyntheticFetch(batch))
			r.fakeB, r.b = r.cluster("b", kfake.BlackholeProduce())
			r.topic(r.fakeA, "events", 8, nil)
			m := r.start(r.config())
			eventually(b, "it flows", func() bool { return m.Status().Totals.Bytes > 1<<20 })
			b.ResetTimer()
			from := m.Status()
			for m.Status().Totals.Bytes-from.Totals.Bytes < int64(b.N)<<20 {
				time.Sleep(5 * time.Millisecond)
			}
			b.StopTimer()
			b.SetBytes(1 << 20)
			if to := m.Status(); to.Totals.Frozen > 0 {
				b.Fatalf("%+v", to)
			}
		})
	}
}
