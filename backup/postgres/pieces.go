package postgres

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/holdfast-dr/holdfast/backup"
)

// putters is how many pieces are handed to the sink at once. Each holds one
// buffer, and one is being filled: this bounds the memory of a backup.
const putters = 4

// pieces hands pieces to a sink from a few workers. The order in which the
// sink numbers them is free; each number finds its place by its pointer.
type pieces struct {
	parent  context.Context
	ctx     context.Context // also ends when a worker fails
	group   *errgroup.Group
	buffers chan []byte
	sink    backup.Sink
}

func newPieces(ctx context.Context, sink backup.Sink) *pieces {
	group, inner := errgroup.WithContext(ctx)
	p := &pieces{parent: ctx, ctx: inner, group: group, sink: sink, buffers: make(chan []byte, putters+1)}
	for range putters + 1 {
		p.buffers <- nil // made when it is first needed
	}
	return p
}

// buffer waits for a free buffer; it ends when a worker failed.
func (p *pieces) buffer() ([]byte, error) {
	select {
	case b := <-p.buffers:
		if b == nil {
			b = make([]byte, backup.PieceBytesMax)
		}
		return b, nil
	case <-p.ctx.Done():
		return nil, p.wait()
	}
}

// put hands over the first n bytes of a buffer that buffer gave.
func (p *pieces) put(b []byte, n int, at *int) {
	p.group.Go(func() error {
		piece, err := p.sink.Put(p.ctx, b[:n])
		if err != nil {
			return err
		}
		*at = piece
		p.buffers <- b
		return nil
	})
}

// wait returns when all that was put is kept, or with the first error.
func (p *pieces) wait() error {
	if err := p.group.Wait(); err != nil {
		return err
	}
	return context.Cause(p.parent)
}
