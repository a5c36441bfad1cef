package repository

import (
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/internal/objects"
	"github.com/holdfast-dr/holdfast/restore"
)

// damage is an error about the set itself, as restores and drills tell it
// from a store that does not answer.
type damage string

func (d damage) Error() string { return string(d) }

// Is makes each of them a restore.ErrDamaged.
func (d damage) Is(target error) bool { return target == restore.ErrDamaged }

// lost makes a missing object damage: a seal names it, so it must be there.
func lost(err error) error {
	if errors.Is(err, objects.ErrNotFound) || errors.Is(err, objects.ErrTooLarge) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}
