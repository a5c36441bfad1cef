package consensus

import "math"

// Holes are filled under a generation that only one mirror ever has. The log
// hands them out: they rise over all epochs of a link, and the time it takes
// to hear of one does not matter. They come in blocks of eight; a mirror that
// is the first of a block waits until no request of an earlier one can be
// under way, and says so once.

// TakeFill hands out the next generation of a link to whoever names itself by
// this nonce. Said twice in a row it hands out one. Who asked reads the state:
// the generation is theirs as long as FillBy is their nonce.
type TakeFill struct {
	Link  LinkID `json:"link"`
	Epoch uint64 `json:"epoch"`
	Nonce string `json:"nonce"`
	// Above is a generation that was seen in the target. The one handed out is
	// higher, even if the log has forgotten it.
	Above int32 `json:"above,omitempty"`
}

// SettleFill records that no request of a generation before this block can be
// under way.
type SettleFill struct {
	Link  LinkID `json:"link"`
	Block int32  `json:"block"`
}

// fillMax is the last generation: one higher is what fences use.
const fillMax = math.MaxInt32 - 1

// FillBlock is the block of a generation.
func FillBlock(generation int32) int32 { return generation >> 3 }

func (*TakeFill) kind() string   { return "link.fill" }
func (*SettleFill) kind() string { return "link.settle" }

func (c *TakeFill) apply(d *draft) error {
	l, err := d.linkAt(c.Link, c.Epoch)
	switch {
	case err != nil:
		return err
	case l.Phase != LinkRunning:
		return stale("link %s is %s at epoch %d: it fills no holes", c.Link, l.Phase, l.Epoch)
	case c.Nonce == "" || c.Above < 0:
		return invalid("who fills holes of %s names itself, above a generation that exists", c.Link)
	}
	if l.FillBy == c.Nonce && l.Fill > c.Above {
		return nil // asked again: the answer was lost
	}
	last := max(l.Fill, c.Above)
	if last >= fillMax {
		return conflict("link %s has used up its generations (%d): reseed its topics under a new link", c.Link, last)
	}
	l.Fill, l.FillBy = last+1, c.Nonce
	d.Links[c.Link] = l
	return nil
}

func (c *SettleFill) apply(d *draft) error {
	l, ok := d.Links[c.Link]
	if !ok {
		return missing("no link %s", c.Link)
	}
	if c.Block > FillBlock(l.Fill) {
		return invalid("link %s is at generation %d: block %d has not begun", c.Link, l.Fill, c.Block)
	}
	if c.Block <= l.FillSettled {
		return stale("link %s is settled up to block %d", c.Link, l.FillSettled)
	}
	l.FillSettled = c.Block
	d.Links[c.Link] = l
	return nil
}
