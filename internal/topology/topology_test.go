package topology

import (
	"strings"
	"testing"
)

func TestCheckName_AcceptsDNSLabelsOnly(t *testing.T) {
	for _, s := range []string{"a", "us-east-1", "0", strings.Repeat("x", 63)} {
		if err := CheckName("region", s); err != nil {
			t.Errorf("%q refused: %v", s, err)
		}
	}
	for _, s := range []string{"", "-a", "a-", "US", "a_b", "a.b", "a/b", "a b", strings.Repeat("x", 64)} {
		if CheckName("region", s) == nil {
			t.Errorf("%q accepted", s)
		}
	}
}

func TestPartition_OrdersByTopicThenNumber(t *testing.T) {
	a, b, c := Partition{"a", 2}, Partition{"a", 10}, Partition{"b", 0}
	if a.Compare(b) >= 0 || b.Compare(c) >= 0 || c.Compare(a) <= 0 || a.Compare(a) != 0 {
		t.Error("order is not topic, then number")
	}
}
