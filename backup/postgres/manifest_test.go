package postgres

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// sign adds the last line to a manifest's text.
func sign(body string) []byte {
	sum := sha256.Sum256([]byte(body))
	return []byte(body + `"Manifest-Checksum": "` + hex.EncodeToString(sum[:]) + "\"}\n")
}

func listing(version int, files ...string) []byte {
	system := ""
	if version > 1 {
		system = "\"System-Identifier\": 7300000000000000001,\n"
	}
	return sign(fmt.Sprintf("{ \"PostgreSQL-Backup-Manifest-Version\": %d,\n%s\"Files\": [\n%s\n],\n\"WAL-Ranges\": [\n{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }\n],\n",
		version, system, strings.Join(files, ",\n")))
}

func line(name, content string) string {
	sum := sha256.Sum256([]byte(content))
	return fmt.Sprintf(`{ "Path": %q, "Size": %d, "Last-Modified": "2026-11-23 21:00:00 GMT", "Checksum-Algorithm": "SHA256", "Checksum": "%x" }`, name, len(content), sum)
}

func TestParseListed_ReadsBothVersions(t *testing.T) {
	encoded := strings.Replace(line("base/1/2", "x"), `"Path": "base/1/2"`, `"Encoded-Path": "`+hex.EncodeToString([]byte("base/ü"))+`"`, 1)
	for version, system := range map[int]uint64{1: 0, 2: 7300000000000000001} {
		l, err := parseListed(listing(version, line("PG_VERSION", "14\n"), encoded))
		if err != nil {
			t.Fatal(err)
		}
		if l.SystemID != system || len(l.Files) != 2 || l.Files["PG_VERSION"].Size != 3 || l.Files["base/ü"].Size != 1 {
			t.Errorf("version %d: %+v", version, l)
		}
		if len(l.Ranges) != 1 || l.Ranges[0] != (walRange{1, 0x2000028, 0x2000100}) {
			t.Errorf("version %d: %+v", version, l.Ranges)
		}
	}
}

func TestParseListed_RefusesWhatIsDamagedOrUnclear(t *testing.T) {
	good := string(listing(2, line("PG_VERSION", "14\n")))
	for name, c := range map[string]struct{ in, want string }{
		"empty":        {"", "no checksum"},
		"cut short":    {good[:len(good)-90], "no checksum"},
		"one letter":   {strings.Replace(good, "PG_VERSION", "PG_VERSIOM", 1), "damaged on the way"},
		"version 3":    {string(listing(3, line("a", ""))), "version is 3"},
		"twice":        {string(listing(1, line("a", ""), line("a", ""))), "twice"},
		"outside":      {string(listing(1, line("../a", ""))), "does not stay inside"},
		"absolute":     {string(listing(1, line("/etc/passwd", ""))), "does not stay inside"},
		"no path":      {string(listing(1, strings.Replace(line("a", ""), "Path", "Patch", 1))), "exactly one path"},
		"crc":          {string(listing(1, strings.Replace(line("a", ""), "SHA256", "CRC32C", 1))), "want a SHA256"},
		"negative":     {string(listing(1, strings.Replace(line("a", ""), `"Size": 0`, `"Size": -1`, 1))), "want a SHA256"},
		"no files":     {string(listing(1)), "0 files"},
		"range":        {string(sign(strings.Replace(body(good), "0/2000100", "0/2000028", 1))), "is no range"},
		"lsn":          {string(sign(strings.Replace(body(good), "0/2000100", "nowhere", 1))), "no WAL position"},
		"not json":     {string(sign("{ nothing\n")), "read the server's manifest"},
		"not utf8":     {string(sign("{\xff\n")), "not UTF-8"},
		"no ranges":    {string(sign(strings.Replace(body(good), `{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }`, "", 1))), "0 WAL ranges"},
		"more behind":  {good + "{}\n", "no checksum"},
		"encoded path": {string(listing(1, strings.Replace(line("zz", ""), "Path", "Encoded-Path", 1))), "encoded path"},
	} {
		if _, err := parseListed([]byte(c.in)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// body is a manifest without its last line.
func body(s string) string { return s[:strings.LastIndex(s, `"Manifest-Checksum"`)] }

func FuzzParseListed(f *testing.F) {
	f.Add(listing(1, line("PG_VERSION", "14\n")), false)
	f.Add([]byte(body(string(listing(2, line("base/1/1", ""))))), true)
	f.Fuzz(func(t *testing.T, b []byte, resign bool) {
		if resign { // so that the fuzzer gets past the checksum
			b = sign(string(b) + "\n")
		}
		l, err := parseListed(b)
		if err != nil {
			return
		}
		for name, file := range l.Files {
			if checkName(name) != nil || file.Size < 0 || len(file.SHA256) != 64 {
				t.Errorf("%q: %+v", name, file)
			}
		}
	})
}
