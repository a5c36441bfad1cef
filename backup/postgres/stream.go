package postgres

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// stream turns the messages that answer BASE_BACKUP into a header, archives,
// a manifest and an end. Postgres 15 and newer send one copy, in which the
// first byte of each message says what it is; 14 sends a copy for each
// tablespace and one more for the manifest. A notice may come anywhere.
type stream struct {
	receive func() (pgproto3.BackendMessage, error)
	tagged  bool // 15 and newer

	spaces   int  // archives that the header announced
	archives int  // that began
	inCopy   bool // a copy is open
	manifest bool // the manifest is being read
	rest     []byte
	next     *pgproto3.CopyData // a message that ended the part before it
	notices  []string           // what the server said about damaged pages
}

// header is what comes before the archives.
type header struct {
	Start    lsn
	Timeline uint32
	Spaces   []space
}

// space is a tablespace. The main one has no OID.
type space struct {
	OID, Location string
	KB            int64
}

// message returns the next one that means something to us.
func (s *stream) message() (pgproto3.BackendMessage, error) {
	for {
		m, err := s.receive()
		if err != nil {
			return nil, fmt.Errorf("receive the base backup: %w", err)
		}
		switch m := m.(type) {
		case *pgproto3.NoticeResponse:
			// Damaged pages are named in warnings; the error comes at the end.
			if strings.Contains(m.Message, "checksum") && len(s.notices) < 5 {
				s.notices = append(s.notices, m.Message)
			}
		case *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
		case *pgproto3.ErrorResponse:
			return nil, s.refused(m)
		default:
			return m, nil
		}
	}
}

func (s *stream) refused(m *pgproto3.ErrorResponse) error {
	err := fmt.Errorf("base backup: the server says: %w", pgconn.ErrorResponseToPgError(m))
	if strings.Contains(m.Message, "has already been removed") {
		err = fmt.Errorf("%w: it recycled the WAL that the backup needs while it ran; give it a free replication slot (max_replication_slots, max_slot_wal_keep_size) or raise wal_keep_size, and take the backup again", err)
	}
	if len(s.notices) > 0 {
		err = fmt.Errorf("%w: %s", err, strings.Join(s.notices, "; "))
	}
	return err
}

// rows reads one result set; the fields are copied, nil is NULL.
func (s *stream) rows(columns int) ([][]*string, error) {
	var rows [][]*string
	for described := false; ; {
		m, err := s.message()
		if err != nil {
			return nil, err
		}
		switch m := m.(type) {
		case *pgproto3.RowDescription:
			described = true
		case *pgproto3.DataRow:
			if !described || len(m.Values) < columns {
				return nil, fmt.Errorf("base backup: a row of %d fields, want %d", len(m.Values), columns)
			}
			row := make([]*string, len(m.Values))
			for i, v := range m.Values {
				if v != nil {
					text := string(v)
					row[i] = &text
				}
			}
			if rows = append(rows, row); len(rows) > spacesMax {
				return nil, fmt.Errorf("base backup: more than %d rows in its header", spacesMax)
			}
		case *pgproto3.CommandComplete:
			if !described {
				return nil, errors.New("base backup: the server answered without rows")
			}
			return rows, nil
		default:
			return nil, fmt.Errorf("base backup: %T where rows were due", m)
		}
	}
}

const spacesMax = 10_000

// position reads a result set of one row: a position and its timeline.
func (s *stream) position() (at lsn, timeline uint32, err error) {
	rows, err := s.rows(2)
	if err != nil {
		return 0, 0, err
	}
	if len(rows) != 1 || rows[0][0] == nil || rows[0][1] == nil {
		return 0, 0, errors.New("base backup: no WAL position in its header")
	}
	if err := at.UnmarshalText([]byte(*rows[0][0])); err != nil {
		return 0, 0, fmt.Errorf("base backup: %w", err)
	}
	tl, err := strconv.ParseUint(*rows[0][1], 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("base backup: timeline %.20q is no number", *rows[0][1])
	}
	return at, uint32(tl), nil
}

func (s *stream) header() (h header, err error) {
	if h.Start, h.Timeline, err = s.position(); err != nil {
		return h, err
	}
	rows, err := s.rows(3)
	if err != nil {
		return h, err
	}
	for _, row := range rows {
		var sp space
		if row[0] != nil {
			sp.OID = *row[0]
		}
		if row[1] != nil {
			sp.Location = *row[1]
		}
		if row[2] != nil {
			if sp.KB, err = strconv.ParseInt(*row[2], 10, 64); err != nil || sp.KB < 0 {
				return h, fmt.Errorf("base backup: size %.40q is no number", *row[2])
			}
		}
		h.Spaces = append(h.Spaces, sp)
	}
	if s.spaces = len(h.Spaces); s.spaces == 0 {
		return h, errors.New("base backup: no tablespace in its header")
	}
	return h, nil
}

// archive begins the next archive; when there is none left it begins the
// manifest and returns false.
func (s *stream) archive() (bool, error) {
	if !s.inCopy {
		m, err := s.message()
		if err != nil {
			return false, err
		}
		if _, ok := m.(*pgproto3.CopyOutResponse); !ok {
			return false, fmt.Errorf("base backup: %T where a copy was due", m)
		}
		s.inCopy = true
	}
	more := s.archives < s.spaces
	if s.tagged {
		d, err := s.data()
		if err != nil {
			return false, err
		}
		if d == nil || len(d.Data) == 0 || d.Data[0] != 'n' && d.Data[0] != 'm' || (d.Data[0] == 'n') != more {
			return false, fmt.Errorf("base backup: no archive or manifest where one was due (%d of %d archives were there)", s.archives, s.spaces)
		}
	}
	if more {
		s.archives++
	} else {
		s.manifest = true
	}
	return more, nil
}

// data returns the next message of a copy, or nil at its end.
func (s *stream) data() (*pgproto3.CopyData, error) {
	if d := s.next; d != nil {
		s.next = nil
		return d, nil
	}
	m, err := s.message()
	if err != nil {
		return nil, err
	}
	switch m := m.(type) {
	case *pgproto3.CopyData:
		return m, nil
	case *pgproto3.CopyDone:
		s.inCopy = false
		return nil, nil
	}
	return nil, fmt.Errorf("base backup: %T in the middle of a copy", m)
}

// Read reads the archive or the manifest that archive began. io.EOF means
// that the server ended it in order.
func (s *stream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if !s.inCopy {
			return 0, io.EOF
		}
		d, err := s.data()
		if err != nil {
			return 0, err
		}
		switch {
		case d == nil:
			if s.tagged && !s.manifest {
				return 0, errors.New("base backup: the copy ended before the manifest")
			}
			return 0, io.EOF
		case !s.tagged:
			s.rest = d.Data
		case len(d.Data) == 0:
			return 0, errors.New("base backup: an empty message in the copy")
		case d.Data[0] == 'd':
			s.rest = d.Data[1:]
		case d.Data[0] == 'p':
		case (d.Data[0] == 'n' || d.Data[0] == 'm') && !s.manifest:
			s.next = &pgproto3.CopyData{Data: bytes.Clone(d.Data)}
			return 0, io.EOF
		default:
			return 0, fmt.Errorf("base backup: a message of kind %q in the copy", d.Data[0])
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// end reads what comes after the manifest: where the WAL that is needed ends.
func (s *stream) end() (lsn, error) {
	if s.inCopy {
		return 0, errors.New("base backup: the manifest was not read to its end")
	}
	at, _, err := s.position()
	if err != nil {
		return 0, err
	}
	for {
		m, err := s.message()
		if err != nil {
			return 0, err
		}
		switch m.(type) {
		case *pgproto3.CommandComplete:
		case *pgproto3.ReadyForQuery:
			return at, nil
		default:
			return 0, fmt.Errorf("base backup: %T after its end", m)
		}
	}
}
