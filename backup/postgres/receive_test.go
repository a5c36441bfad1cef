package postgres

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/holdfast-dr/holdfast/backup"
)

// large is a file of more than one piece.
var large = strings.Repeat("0123456789abcdef", (2*backup.PieceBytesMax+4096)/16)

var entries = []entry{
	{"backup_label", "START WAL LOCATION: 0/2000028\n", ""}, {"base/", "", ""}, {"base/1/", "", ""}, {"base/1/100", large, ""},
	{"base/1/empty", "", ""}, {"pg_wal/", "", ""}, {"./pg_wal/archive_status/", "", ""}, {"pg_replslot/", "", ""}, segment,
	{"pg_wal/archive_status/000000010000000000000020.done", "", ""}, {"global/", "", ""}, {"global/pg_control", "state", ""},
}

func lines(from []entry) (out []string) {
	for _, e := range from {
		if !strings.HasSuffix(e.name, "/") && !strings.HasPrefix(e.name, "pg_wal/") && e.link == "" {
			out = append(out, line(e.name, e.content))
		}
	}
	return out
}

// good is a script that must pass, in the framing of 14 or of 15 and newer.
func good(t *testing.T, tagged bool) script {
	t.Helper()
	version := 1
	if tagged {
		version = 2
	}
	return script{tagged: tagged, archive: archive(t, entries...), manifest: listing(version, lines(entries)...)}
}

func both(t *testing.T, f func(t *testing.T, s script)) {
	for name, tagged := range map[string]bool{"14": false, "15 and newer": true} {
		t.Run(name, func(t *testing.T) { f(t, good(t, tagged)) })
	}
}

func TestReceive_TakesEveryFileAndEveryEmptyDirectory(t *testing.T) {
	both(t, func(t *testing.T, s script) {
		// A notice may come anywhere, also inside the copy.
		s.before = func(n int, b *pgproto3.Backend) bool {
			if n%5 == 0 {
				b.Send(&pgproto3.NoticeResponse{Severity: "WARNING", Message: "still waiting"})
			}
			return true
		}
		sink := &memory{}
		got, h, end, err := s.play(t, sink)
		if err != nil {
			t.Fatal(err)
		}
		if h.Start != 0x2000028 || h.Timeline != 1 || end != 0x2000100 {
			t.Errorf("%+v to %s", h, end)
		}
		want := map[string]string{manifestName: string(s.manifest)}
		var dirs []string
		for _, e := range entries {
			if name, ok := strings.CutSuffix(strings.TrimPrefix(e.name, "./"), "/"); ok {
				dirs = append(dirs, name)
			} else {
				want[e.name] = e.content
			}
		}
		if len(got.files) != len(want) || len(got.dirs) != len(dirs) {
			t.Errorf("%d files and %d directories, want %d and %d", len(got.files), len(got.dirs), len(want), len(dirs))
		}
		for _, f := range got.files {
			if sink.content(f) != want[f.Name] || f.Bytes != int64(len(want[f.Name])) || f.Mode != 0o600 {
				t.Errorf("%s: %d bytes, mode %o", f.Name, f.Bytes, f.Mode)
			}
			if f.Name == "base/1/100" && (len(f.Pieces) != 3 || len(sink.pieces[f.Pieces[0]]) != backup.PieceBytesMax || len(sink.pieces[f.Pieces[2]]) != 4096) {
				t.Errorf("cut into %d pieces", len(f.Pieces))
			}
		}
	})
}

func TestReceive_TakesATarWithItsEnd(t *testing.T) {
	both(t, func(t *testing.T, s script) {
		s.archive = append(s.archive, make([]byte, 1024)...)
		if _, _, _, err := s.play(t, &memory{}); err != nil {
			t.Error(err)
		}
	})
}

func TestReceive_RefusesWhatIsNotAsListed(t *testing.T) {
	without := func(skip string) (out []entry) {
		for _, e := range entries {
			if e.name != skip {
				out = append(out, e)
			}
		}
		return out
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, s *script)
		want   string
	}{
		"one byte": {func(t *testing.T, s *script) {
			s.archive = bytes.Replace(s.archive, []byte("state\x00"), []byte("stAte\x00"), 1)
		}, "global/pg_control has the SHA-256"},
		"longer": {func(t *testing.T, s *script) {
			s.archive = archive(t, append(without("global/pg_control"), entry{"global/pg_control", "states", ""})...)
		}, "global/pg_control is 6 bytes long, the server's manifest says 5"},
		"missing file": {func(t *testing.T, s *script) { s.archive = archive(t, without("base/1/100")...) }, "base/1/100 is in the server's manifest and did not arrive"},
		"extra file": {func(t *testing.T, s *script) {
			s.archive = archive(t, append(entries, entry{"base/1/101", "x", ""})...)
		}, "base/1/101 arrived and is not"},
		"twice":  {func(t *testing.T, s *script) { s.archive = archive(t, append(entries, entries[0])...) }, "backup_label arrived twice"},
		"no wal": {func(t *testing.T, s *script) { s.archive = archive(t, without(segment.name)...) }, "no segment arrived"},
		"short wal": {func(t *testing.T, s *script) {
			s.archive = archive(t, append(without(segment.name), entry{segment.name, "x", ""})...)
		}, "is no segment"},
		"other wal": {func(t *testing.T, s *script) {
			s.archive = archive(t, append(without(segment.name), entry{"pg_wal/000000010000000000000021", segment.content, ""})...)
		}, "segment 000000010000000000000020 did not arrive"},
		"link": {func(t *testing.T, s *script) {
			s.archive = archive(t, append(entries, entry{"pg_tblspc/1", "", "/mnt/x"})...)
		}, "pg_tblspc/1 is a"},
		"outside":  {func(t *testing.T, s *script) { s.archive = archive(t, append(entries, entry{"../x", "", ""})...) }, "does not stay inside"},
		"absolute": {func(t *testing.T, s *script) { s.archive = archive(t, append(entries, entry{"/x", "", ""})...) }, "does not stay inside"},
		"own list": {func(t *testing.T, s *script) {
			more := append(entries[:len(entries):len(entries)], entry{manifestName, "x", ""})
			s.archive, s.manifest = archive(t, more...), listing(1, lines(more)...)
		}, "a file backup_manifest of its own"},
		"manifest":   {func(t *testing.T, s *script) { s.manifest = bytes.Replace(s.manifest, []byte("GMT"), []byte("UTC"), 1) }, "damaged on the way"},
		"tablespace": {func(t *testing.T, s *script) { s.spaces = [][]string{{"16400", "/mnt/fast"}} }, "16400 at /mnt/fast"},
		"half a tar": {func(t *testing.T, s *script) { s.archive = s.archive[:len(s.archive)-700] }, "read the archive"},
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, s script) {
				c.change(t, &s)
				if _, _, _, err := s.play(t, &memory{}); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
			})
		})
	}
}

func TestReceive_RefusesAManifestOfAnotherSystem(t *testing.T) {
	s := good(t, true)
	s.manifest = sign(strings.Replace(body(string(s.manifest)), "7300000000000000001", "7300000000000000002", 1))
	if _, _, _, err := s.play(t, &memory{}); err == nil || !strings.Contains(err.Error(), "of system 7300000000000000002") {
		t.Errorf("%v", err)
	}
}

func TestReceive_IsNeverContentWithPartOfTheAnswer(t *testing.T) {
	both(t, func(t *testing.T, s script) {
		var few []entry
		for _, e := range entries {
			if e.content != large {
				few = append(few, e)
			}
		}
		s.archive, s.manifest = archive(t, few...), listing(1, lines(few)...)
		total := len(s.messages())
		for cut := range total {
			s.before = func(n int, _ *pgproto3.Backend) bool { return n < cut }
			if _, _, _, err := s.play(t, &memory{}); err == nil {
				t.Fatalf("the connection ended after %d of %d messages, and nothing was wrong", cut, total)
			}
		}
	})
}

func TestReceive_PassesOnWhatTheServerSays(t *testing.T) {
	both(t, func(t *testing.T, s script) {
		s.before = func(n int, b *pgproto3.Backend) bool {
			switch n {
			case 12:
				b.Send(&pgproto3.NoticeResponse{Severity: "WARNING", Message: `checksum verification failed in file "./base/1/100", block 7`})
			case 20:
				b.Send(&pgproto3.ErrorResponse{Severity: "ERROR", Code: "XX001", Message: "checksum verification failure during base backup"})
				return false
			}
			return true
		}
		_, _, _, err := s.play(t, &memory{})
		if err == nil || !strings.Contains(err.Error(), "failure during base backup") || !strings.Contains(err.Error(), "block 7") {
			t.Errorf("%v", err)
		}
	})
}

func TestReceive_DamagedPagesFailTheRunEvenIfTheServerGoesOn(t *testing.T) {
	both(t, func(t *testing.T, s script) {
		s.before = func(n int, b *pgproto3.Backend) bool {
			if n == 12 {
				b.Send(&pgproto3.NoticeResponse{Severity: "WARNING", Message: "page checksum verification failed"})
			}
			return true
		}
		if _, _, _, err := s.play(t, &memory{}); err == nil || !strings.Contains(err.Error(), "damaged pages") {
			t.Errorf("%v", err)
		}
	})
}

func TestReceive_EndsWithTheSink(t *testing.T) {
	both(t, func(t *testing.T, s script) {
		for _, at := range []int{1, 3, 7} {
			if _, _, _, err := s.play(t, &memory{failAt: at}); !errors.Is(err, errFull) {
				t.Errorf("put %d: %v", at, err)
			}
		}
	})
}

// FuzzReceive feeds the answer's copies: whatever they hold, the outcome is an
// error or a backup in which every listed file has its hash.
func FuzzReceive(f *testing.F) {
	for _, tagged := range []bool{false, true} {
		var t testing.T
		small := []entry{{"a/", "", ""}, {"a/b", "content", ""}, {"global/pg_control", "x", ""}}
		f.Add(tagged, archive(&t, small...), listing(1, lines(small)...), []byte("nbase.tar\x00\x00"))
	}
	f.Fuzz(func(t *testing.T, tagged bool, tarball, manifest, first []byte) {
		all := []pgproto3.BackendMessage{
			&pgproto3.RowDescription{}, text("0/2000028", "1"), &pgproto3.CommandComplete{},
			&pgproto3.RowDescription{}, text("", "", "1"), &pgproto3.CommandComplete{},
			&pgproto3.CopyOutResponse{}, &pgproto3.CopyData{Data: first}, &pgproto3.CopyData{Data: tarball}, &pgproto3.CopyDone{},
			&pgproto3.CopyOutResponse{}, &pgproto3.CopyData{Data: manifest}, &pgproto3.CopyDone{},
		}
		next := 0
		s := &stream{tagged: tagged, receive: func() (pgproto3.BackendMessage, error) {
			if next == len(all) {
				return nil, io.ErrUnexpectedEOF
			}
			next++
			return all[next-1], nil
		}}
		if _, _, _, err := receive(t.Context(), s, "1", &memory{}, func(backup.Progress) {}); err == nil {
			t.Error("an answer without an end was taken")
		}
	})
}
