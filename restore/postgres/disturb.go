package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/holdfast-dr/holdfast/backup"
)

// Disturb deletes one row of the largest table that was counted and stood
// still, so that a Compare that works must see it.
func (t *Target) Disturb(ctx context.Context, m *backup.Manifest) (string, error) {
	if t.client == nil || m.Postgres == nil || !t.ours() {
		return "", fmt.Errorf("disturb postgres in %s: no scratch server of ours runs there", t.place)
	}
	var victim *backup.PostgresTable
	for i, c := range m.Postgres.Census {
		if c.Name != "" && c.Skipped == "" && !c.Moving && c.Rows > 0 && (victim == nil || c.Rows > victim.Rows) {
			victim = &m.Postgres.Census[i]
		}
	}
	if victim == nil {
		return "", fmt.Errorf("disturb postgres in %s: no table with rows was counted and stood still, so nothing was compared", t.place)
	}
	conn, err := t.client.Connect(ctx, victim.Database)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	where := name{victim.Database, victim.Schema, victim.Name}.String()
	// Without triggers and foreign keys: exactly one row.
	if _, err := conn.Exec(ctx, "SET session_replication_role = replica; SET default_transaction_read_only = off; SET lock_timeout = '10s'"); err != nil {
		return "", fmt.Errorf("disturb %s: %w", where, err)
	}
	table := pgx.Identifier{victim.Schema, victim.Name}.Sanitize()
	tag, err := conn.Exec(ctx, "DELETE FROM ONLY "+table+" WHERE ctid = (SELECT ctid FROM ONLY "+table+" LIMIT 1)")
	if err != nil {
		return "", fmt.Errorf("disturb %s: %w", where, err)
	}
	if tag.RowsAffected() != 1 {
		return "", fmt.Errorf("disturb %s: %d rows were deleted, want 1", where, tag.RowsAffected())
	}
	return fmt.Sprintf("deleted one of %d rows of %s", victim.Rows, where), nil
}
