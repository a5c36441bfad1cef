package postgres

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// listed is the server's backup_manifest: what it says it has sent.
type listed struct {
	SystemID uint64 // 0 before version 2 (Postgres 17)
	Files    map[string]listedFile
	Ranges   []walRange
}

type listedFile struct {
	Size   int64
	SHA256 string
}

// walRange is the WAL that is needed, from Start up to End.
type walRange struct {
	Timeline   uint32
	Start, End lsn
}

// parseListed reads a backup_manifest and compares it with the checksum in its
// last line. Every file must have a SHA-256, since that was asked for.
func parseListed(b []byte) (listed, error) {
	if err := checkListed(b); err != nil {
		return listed{}, err
	}
	var raw struct {
		Version  int    `json:"PostgreSQL-Backup-Manifest-Version"`
		SystemID uint64 `json:"System-Identifier"`
		Files    []struct {
			Path      *string `json:"Path"`
			Encoded   *string `json:"Encoded-Path"`
			Size      int64   `json:"Size"`
			Algorithm string  `json:"Checksum-Algorithm"`
			Checksum  string  `json:"Checksum"`
		} `json:"Files"`
		Ranges []struct {
			Timeline uint32 `json:"Timeline"`
			Start    lsn    `json:"Start-LSN"`
			End      lsn    `json:"End-LSN"`
		} `json:"WAL-Ranges"`
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return listed{}, fmt.Errorf("read the server's manifest: %w", err)
	}
	if raw.Version != 1 && raw.Version != 2 {
		return listed{}, fmt.Errorf("read the server's manifest: its version is %d, want 1 or 2", raw.Version)
	}
	l := listed{SystemID: raw.SystemID, Files: make(map[string]listedFile, len(raw.Files))}
	for _, f := range raw.Files {
		var name string
		switch {
		case f.Path != nil && f.Encoded == nil:
			name = *f.Path
		case f.Encoded != nil && f.Path == nil:
			raw, err := hex.DecodeString(*f.Encoded)
			if err != nil {
				return listed{}, fmt.Errorf("read the server's manifest: encoded path %.80q: %w", *f.Encoded, err)
			}
			name = string(raw)
		default:
			return listed{}, errors.New("read the server's manifest: a file without exactly one path")
		}
		if err := checkName(name); err != nil {
			return listed{}, fmt.Errorf("read the server's manifest: %w", err)
		}
		if sum, err := hex.DecodeString(f.Checksum); err != nil || f.Algorithm != "SHA256" || len(sum) != sha256.Size || f.Size < 0 {
			return listed{}, fmt.Errorf("read the server's manifest: file %q has size %d and checksum %.80q of kind %.20q, want a SHA256", name, f.Size, f.Checksum, f.Algorithm)
		}
		if _, twice := l.Files[name]; twice {
			return listed{}, fmt.Errorf("read the server's manifest: file %q is there twice", name)
		}
		l.Files[name] = listedFile{f.Size, string(bytes.ToLower([]byte(f.Checksum)))}
	}
	for _, r := range raw.Ranges {
		if r.Start >= r.End {
			return listed{}, fmt.Errorf("read the server's manifest: WAL from %s to %s is no range", r.Start, r.End)
		}
		l.Ranges = append(l.Ranges, walRange{r.Timeline, r.Start, r.End})
	}
	if len(l.Files) == 0 || len(l.Ranges) == 0 {
		return listed{}, fmt.Errorf("read the server's manifest: %d files and %d WAL ranges, want at least one of each", len(l.Files), len(l.Ranges))
	}
	return l, nil
}

// checkListed compares the last line, a SHA-256, with all that is before it.
func checkListed(b []byte) error {
	if !utf8.Valid(b) {
		return errors.New("read the server's manifest: it is not UTF-8")
	}
	at := bytes.LastIndexByte(bytes.TrimSuffix(b, []byte("\n")), '\n') + 1
	var want string
	if n, err := fmt.Sscanf(string(b[at:]), `"Manifest-Checksum": %q}`, &want); n != 1 || err != nil {
		return errors.New("read the server's manifest: its last line is no checksum; it was cut short")
	}
	sum := sha256.Sum256(b[:at])
	if got := hex.EncodeToString(sum[:]); got != want {
		return fmt.Errorf("read the server's manifest: its SHA-256 is %s, it says %.80s: it was damaged on the way", got, want)
	}
	return nil
}
