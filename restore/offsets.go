package restore

import (
	"fmt"
	"slices"

	"github.com/holdfast-dr/holdfast/backup"
)

// CheckOffsets compares the Kafka part of a set with itself: every committed
// offset must lie before the end that its partition had, and as many must be
// there as were counted. It reads no broker.
//
// An offset below the start of its log is no difference: it was so when the
// set was taken. It is a finding, see misplaced.
func CheckOffsets(m *backup.Manifest) (c Comparison) {
	logs := map[string]map[int32]backup.KafkaPartition{}
	for _, t := range m.Kafka.Topics {
		if _, twice := logs[t.Name]; twice {
			c.Add("topic "+t.Name, "is there twice")
		}
		logs[t.Name] = make(map[int32]backup.KafkaPartition, len(t.Partitions))
		for _, p := range t.Partitions {
			if _, twice := logs[t.Name][p.Partition]; twice {
				c.Add(fmt.Sprintf("%s/%d", t.Name, p.Partition), "is there twice")
			}
			if p.Start < 0 || p.End < p.Start {
				c.Add(fmt.Sprintf("%s/%d", t.Name, p.Partition), fmt.Sprintf("its log goes from %d to %d", p.Start, p.End))
			}
			logs[t.Name][p.Partition] = p
		}
	}
	groups := map[string]bool{}
	for _, g := range m.Kafka.Groups {
		if groups[g.Name] {
			c.Add("group "+g.Name, "is there twice")
		}
		groups[g.Name] = true
		for _, o := range g.Offsets {
			c.Units++
			where := fmt.Sprintf("group %s, %s/%d", g.Name, o.Topic, o.Partition)
			parts, known := logs[o.Topic]
			p, there := parts[o.Partition]
			switch {
			case o.Offset < 0:
				c.Add(where, fmt.Sprintf("offset %d is none", o.Offset))
			case known && !there:
				c.Add(where, "the range of this partition is not in the set")
			case known && o.Offset > p.End:
				c.Add(where, fmt.Sprintf("offset %d lies beyond the end of the log, %d", o.Offset, p.End))
			}
		}
	}
	c.Tables, c.Rows = len(m.Kafka.Topics), uint64(c.Units)
	if c.Rows != m.Totals.Rows {
		c.Add("offsets", fmt.Sprintf("%d are there, the manifest counts %d", c.Rows, m.Totals.Rows))
	}
	return c
}

// misplaced finds the groups that would start at another place than they
// committed, because retention or a deletion was faster than they were.
func misplaced(m *backup.Manifest) (out []Finding) {
	starts := map[string]map[int32]int64{}
	for _, t := range m.Kafka.Topics {
		starts[t.Name] = map[int32]int64{}
		for _, p := range t.Partitions {
			starts[t.Name][p.Partition] = p.Start
		}
	}
	for _, g := range m.Kafka.Groups {
		var f *Finding
		n := 0
		for _, o := range g.Offsets {
			start, there := starts[o.Topic][o.Partition]
			what := ""
			if starts[o.Topic] == nil {
				what = fmt.Sprintf("has an offset for %s, a topic that was not there when the set was taken", o.Topic)
			} else if there && o.Offset < start {
				what = fmt.Sprintf("would start %s/%d at the wrong place: it committed %d, the log begins at %d", o.Topic, o.Partition, o.Offset, start)
			}
			if what == "" {
				continue
			}
			if n++; f == nil {
				f = &Finding{Object: "group " + g.Name, What: what, Hurts: "the group's place; the rest of the set is whole"}
			}
		}
		if f != nil {
			if n > 1 {
				f.What += fmt.Sprintf("; and so in %s more", count(n-1, "partition"))
			}
			out = append(out, *f)
		}
		if len(out) == DifferencesMax {
			return out
		}
	}
	return out
}

// offsetControl moves one offset beyond the end of its log, in a copy, and
// checks once more.
func offsetControl(m *backup.Manifest) Control {
	c := Control{Name: "one row of " + string(backup.Kafka)}
	groups := slices.Clone(m.Kafka.Groups)
	at := slices.IndexFunc(groups, func(g backup.KafkaGroup) bool { return len(g.Offsets) > 0 })
	if at < 0 {
		groups = append(groups, backup.KafkaGroup{Name: "holdfast-control", Offsets: []backup.KafkaOffset{{Topic: "holdfast-control"}}})
		c.What = "an offset that nobody committed was added"
	} else {
		g := &groups[at]
		g.Offsets = slices.Clone(g.Offsets)
		o := &g.Offsets[0]
		end, known := int64(0), false
		for _, t := range m.Kafka.Topics {
			for _, p := range t.Partitions {
				if t.Name == o.Topic && p.Partition == o.Partition {
					end, known = p.End, true
				}
			}
		}
		if known {
			c.What = fmt.Sprintf("group %s, %s/%d: from %d to %d, in a copy", g.Name, o.Topic, o.Partition, o.Offset, end+1)
			o.Offset = end + 1
		} else {
			c.What = fmt.Sprintf("group %s, %s/%d: taken out of a copy", g.Name, o.Topic, o.Partition)
			g.Offsets = g.Offsets[1:]
		}
	}
	broken := *m
	part := *m.Kafka
	part.Groups = groups
	broken.Kafka = &part
	if got := CheckOffsets(&broken); len(got.Differences) > 0 {
		c.Caught, c.How = true, got.Differences[0].Where+": "+got.Differences[0].What
	} else {
		c.How = silence
	}
	return c
}
