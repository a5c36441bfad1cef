package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"testing"
	"time"
)

func TestQuoting_KeepsOddNamesInTheirPlace(t *testing.T) {
	for got, want := range map[string]string{
		Ident("a`b\\"):                    "`a\\`b\\\\`",
		Literal("it's \\"):                "'it\\'s \\\\'",
		TableName("d", "t.x"):             "`d`.`t.x`",
		PartitionIDs([]string{"a", "b'"}): "PARTITIONS ID 'a', ID 'b\\''",
		Literals([]string{"a", "b"}):      "'a', 'b'",
	} {
		if got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestSplitStatements_HoldEachPartitionOnceWithinTheLimit(t *testing.T) {
	var tables []PartitionsOf
	want := map[string]bool{}
	for i := range 7 {
		p := PartitionsOf{Table: fmt.Sprintf("`d`.`t%d`", i)}
		for j := range 40 {
			id := fmt.Sprintf("90-%06d", j)
			p.Partitions = append(p.Partitions, id)
			want[p.Table+id] = true
		}
		tables = append(tables, p)
	}
	for _, limit := range []int{1, 60, 500, 1_000_000} {
		statements, holds := SplitStatements("BACKUP", tables, limit)
		seen := map[string]bool{}
		for i, s := range statements {
			if limit >= 60 && len(s) > limit+len("BACKUP ") {
				t.Errorf("limit %d: a statement of %d bytes", limit, len(s))
			}
			for _, h := range holds[i] {
				if !strings.Contains(s, "TABLE "+h.Table+" "+PartitionIDs(h.Partitions)) {
					t.Errorf("%s does not hold %v", s, h)
				}
				for _, p := range h.Partitions {
					if seen[h.Table+p] {
						t.Errorf("limit %d: %s %s twice", limit, h.Table, p)
					}
					seen[h.Table+p] = true
				}
			}
		}
		if len(seen) != len(want) || limit == 1_000_000 && len(statements) != 1 || limit == 1 && len(statements) != len(want) {
			t.Errorf("limit %d: %d of %d partitions in %d statements", limit, len(seen), len(want), len(statements))
		}
	}
}

func TestCensus_ReadsStoredColumnsAndSeesNulls(t *testing.T) {
	q := Census{Database: "d", Table: "t", By: ByPart, Only: []string{"p"}, OnlyBy: ByPartition, Columns: []Column{{"a", "UInt8", ""}, {"m", "UInt8", "MATERIALIZED"}, {"x", "UInt8", "ALIAS"}, {"e", "UInt8", "EPHEMERAL"}}}
	want := "SELECT toString(_part) AS holdfast_group, count(), sum(cityHash64(tuple(`a`, `m`))) FROM `d`.`t` WHERE _partition_id IN ('p') GROUP BY holdfast_group"
	if got := q.sql(TupleHash, q.Only); got != want {
		t.Errorf("%s", got)
	}
	if got := q.sql(BytesHash, q.Only); !strings.Contains(got, "formatRow('RowBinary', `a`, `m`)") {
		t.Errorf("%s", got)
	}
}

func TestRowCount_AddsUpModulo2To64AndNamesItsMethod(t *testing.T) {
	sum := RowCount{1, math.MaxUint64}.Add(RowCount{2, 3})
	if sum != (RowCount{3, 2}) || sum.Text(TupleHash) != "tuple1:2" {
		t.Errorf("%+v %s", sum, sum.Text(TupleHash))
	}
	for text, want := range map[string]bool{"tuple1:2": true, "bytes1:18446744073709551615": true, "": false, "2": false, "tuple2:2": false, "tuple1:x": false} {
		if _, ok := MethodOf(text); ok != want {
			t.Errorf("%q: %t", text, ok)
		}
	}
}

func TestQuery_ALimitOfItsOwnSaysSo(t *testing.T) {
	c, err := Open(Config{Name: "us-east", Addresses: []string{"a:1"}, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	for _, outlives := range []bool{false, true} {
		err = c.Exec(t.Context(), Query{SQL: "SELECT 1", Timeout: 20 * time.Millisecond, Outlives: outlives})
		if !errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(), "us-east") {
			t.Errorf("outlives %t: %v", outlives, err)
		}
	}
	q := Query{Timeout: time.Minute, Outlives: true}
	parent, cancel := context.WithTimeout(t.Context(), time.Hour)
	ctx, end := q.in(parent, nil)
	if _, limited := ctx.Deadline(); limited {
		t.Error("the driver would send the limit to the server")
	}
	cancel()
	<-ctx.Done()
	end()
}
