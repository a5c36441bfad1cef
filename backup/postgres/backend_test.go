package postgres

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/holdfast-dr/holdfast/backup"
)

// memory is a sink that keeps pieces, and can fail.
type memory struct {
	backup.Sink // only Put is asked for

	mu     sync.Mutex
	pieces [][]byte
	failAt int // the n-th put fails; 0: none
}

var errFull = errors.New("the store is full")

func (m *memory) Put(_ context.Context, data []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failAt > 0 && len(m.pieces)+1 >= m.failAt {
		return 0, errFull
	}
	if len(data) == 0 || len(data) > backup.PieceBytesMax {
		return 0, errors.New("a piece of a size that the contract forbids")
	}
	m.pieces = append(m.pieces, bytes.Clone(data))
	return len(m.pieces) - 1, nil
}

func (m *memory) content(f backup.PostgresFile) string {
	var b bytes.Buffer
	for _, i := range f.Pieces {
		b.Write(m.pieces[i])
	}
	return b.String()
}

// entry is one entry of an archive; a name that ends in a slash is a
// directory, one with a target is a link.
type entry struct{ name, content, link string }

// archive writes a tar as the server does, without the empty blocks at its end.
func archive(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o600, Size: int64(len(e.content)), Typeflag: tar.TypeReg}
		switch {
		case e.link != "":
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		case e.name[len(e.name)-1] == '/':
			h.Typeflag, h.Mode = tar.TypeDir, 0o700
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// segment is the WAL from 0/2000000 on, of the smallest size.
var segment = entry{"pg_wal/000000010000000000000020", string(make([]byte, 1<<20)), ""}

// script is what a fake server answers to BASE_BACKUP.
type script struct {
	tagged   bool
	archive  []byte
	manifest []byte
	spaces   [][]string // besides the main one: OID, location
	// before is called with the number of each message, and may send more.
	before func(n int, b *pgproto3.Backend) (goOn bool)
}

func text(fields ...string) *pgproto3.DataRow {
	r := &pgproto3.DataRow{}
	for _, f := range fields {
		if f == "" {
			r.Values = append(r.Values, nil)
			continue
		}
		r.Values = append(r.Values, []byte(f))
	}
	return r
}

func (s script) messages() (all []pgproto3.BackendMessage) {
	add := func(m ...pgproto3.BackendMessage) { all = append(all, m...) }
	rows := func(r ...*pgproto3.DataRow) {
		add(&pgproto3.RowDescription{Fields: make([]pgproto3.FieldDescription, len(r[0].Values))})
		for _, x := range r {
			add(x)
		}
		add(&pgproto3.CommandComplete{CommandTag: []byte("SELECT")})
	}
	chunks := func(b []byte, tag string) {
		for i := 0; len(b) > 0; i++ {
			n := min(len(b), 64_000)
			add(&pgproto3.CopyData{Data: append([]byte(tag), b[:n]...)})
			if b = b[n:]; i%7 == 3 && tag != "" {
				add(&pgproto3.CopyData{Data: []byte("p\x00\x00\x00\x00\x00\x00\x10\x00")})
			}
		}
	}
	rows(text("0/2000028", "1"))
	spaces := []*pgproto3.DataRow{}
	for _, x := range s.spaces {
		spaces = append(spaces, text(x[0], x[1], "7"))
	}
	rows(append(spaces, text("", "", "100"))...)
	add(&pgproto3.CopyOutResponse{})
	if s.tagged {
		add(&pgproto3.CopyData{Data: []byte("nbase.tar\x00\x00")})
		chunks(s.archive, "d")
		add(&pgproto3.CopyData{Data: []byte("m")})
		chunks(s.manifest, "d")
	} else {
		chunks(s.archive, "")
		add(&pgproto3.CopyDone{}, &pgproto3.CopyOutResponse{})
		chunks(s.manifest, "")
	}
	add(&pgproto3.CopyDone{})
	rows(text("0/2000100", "1"))
	add(&pgproto3.CommandComplete{CommandTag: []byte("BASE_BACKUP")}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
	return all
}

// play runs the script against receive, over a pipe.
func (s script) play(t *testing.T, sink backup.Sink) (*received, header, lsn, error) {
	t.Helper()
	mine, theirs := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer theirs.Close()
		b := pgproto3.NewBackend(theirs, theirs)
		for i, m := range s.messages() {
			if s.before != nil && !s.before(i, b) {
				_ = b.Flush()
				return
			}
			b.Send(m)
			if b.Flush() != nil {
				return
			}
		}
	})
	defer wg.Wait()
	defer mine.Close()
	front := pgproto3.NewFrontend(mine, mine)
	return receive(t.Context(), &stream{receive: front.Receive, tagged: s.tagged}, "7300000000000000001", sink, func(backup.Progress) {})
}
