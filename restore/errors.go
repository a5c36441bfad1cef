package restore

import (
	"errors"
	"fmt"
	"strings"

	"github.com/holdfast-dr/holdfast/backup"
)

// ErrDamaged is wrapped by a Vault when the store answered and what it gave is
// not what the set needs: a wrong hash or signature, an object that is missing
// or cannot be decrypted or decoded. It is what tells a bad set from a bad
// day: an error without it says nothing about the set.
var ErrDamaged = errors.New("damaged")

// namedMax bounds how many things one error names.
const namedMax = 5

// DamagedError says which objects are not what the set needs. Nothing was
// restored from them.
type DamagedError struct {
	Set      backup.SetID
	Findings []Finding // the first ones
	Broken   int       // all
}

func (e *DamagedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "set %s is damaged, nothing was restored: ", e.Set)
	for i, f := range e.Findings {
		if i == namedMax {
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(f.Object + " " + f.What)
	}
	if n := e.Broken - min(len(e.Findings), namedMax); n > 0 {
		fmt.Fprintf(&b, "; and %d more", n)
	}
	b.WriteString(" (take another set, or a copy of this one in another repository)")
	return b.String()
}

// Is makes it an ErrDamaged.
func (e *DamagedError) Is(target error) bool { return target == ErrDamaged }

// WrongSealError says that the seal in the store is not the one that was
// recorded when the set was made. It is signed, but it was exchanged.
type WrongSealError struct {
	Set       backup.SetID
	Want, Got backup.Digest
}

func (e *WrongSealError) Error() string {
	return fmt.Sprintf("the seal of set %s in the store is not the one that was recorded: its SHA-256 is %s, the log says %s (who can write to this repository? take another set)", e.Set, e.Got, e.Want)
}

// Is makes it an ErrDamaged.
func (e *WrongSealError) Is(target error) bool { return target == ErrDamaged }

// RefusedError says what was in the way of a restore. Nothing was touched.
type RefusedError struct {
	Obstacles []Obstacle
}

func (e *RefusedError) Error() string {
	var what []string
	for i, o := range e.Obstacles {
		if i == namedMax {
			what = append(what, fmt.Sprintf("and %d more", len(e.Obstacles)-namedMax))
			break
		}
		s := o.What
		if o.Next != "" {
			s += " (" + o.Next + ")"
		}
		what = append(what, s)
	}
	return "restore refused, nothing was touched: " + strings.Join(what, "; ")
}

// DifferentError says that what was restored is not what the manifest says.
type DifferentError struct {
	Engine     backup.Engine
	Where      string
	Comparison Comparison
}

func (e *DifferentError) Error() string {
	s := fmt.Sprintf("%s in %s is not what the set holds: %s", e.Engine, e.Where, count(e.Comparison.Different, "difference"))
	for i, d := range e.Comparison.Differences {
		if i == namedMax {
			break
		}
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		s += sep + d.Where + ": " + d.What
	}
	return s
}

// LeftError says what could not be removed after a restore failed.
type LeftError struct {
	Left []Leftover
}

func (e *LeftError) Error() string {
	var what []string
	for _, l := range e.Left {
		what = append(what, fmt.Sprintf("%s in %s: %s", l.Engine, l.Where, l.Why))
	}
	return "not removed, and to be removed by hand: " + strings.Join(what, "; ")
}

// blindError says that a check looked at less than there was: it proves nothing.
type blindError struct{ what string }

func (e *blindError) Error() string { return e.what }

// exhibits reports whether an error is about the set itself and not about the
// way to it.
func exhibits(err error) bool {
	var different *DifferentError
	return errors.Is(err, ErrDamaged) || errors.As(err, &different)
}
