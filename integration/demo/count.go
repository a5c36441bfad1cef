package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
)

// counted compares the ledger with one region's table.
type counted struct {
	Acked      int64 `json:"acked"`      // ids in the ledger
	Rows       int64 `json:"rows"`       // of the table
	Lost       int64 `json:"lost"`       // acknowledged and absent from the table
	Duplicated int64 `json:"duplicated"` // rows beyond the first of their id
	Unasked    int64 `json:"unasked"`    // in the table and never acknowledged: answers that were lost
}

// countMain is an independent program: it reads a file and a table.
func countMain(ctx context.Context, args []string) (err error) {
	fs := flag.NewFlagSet("count", flag.ContinueOnError)
	ledger := fs.String("ledger", "", "file of acknowledged ids")
	s := storeFlags(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	acked := map[string]bool{}
	f, err := os.Open(*ledger)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		id, _, ok := strings.Cut(lines.Text(), " ")
		if !ok || len(id) != 32 {
			return fmt.Errorf("ledger: bad line %q", lines.Text())
		}
		acked[id] = true
	}
	if err := lines.Err(); err != nil {
		return err
	}
	conn, err := s.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	rows, err := conn.Query(ctx, "SELECT event_id, count() FROM events_local GROUP BY event_id")
	if err != nil {
		return err
	}
	out := counted{Acked: int64(len(acked)), Lost: int64(len(acked))}
	for rows.Next() {
		var id string
		var n uint64
		if err := rows.Scan(&id, &n); err != nil {
			return err
		}
		out.Rows += int64(n)
		out.Duplicated += int64(n) - 1
		if acked[id] {
			out.Lost--
		} else {
			out.Unasked++
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}
