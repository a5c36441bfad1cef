package config

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"

	"github.com/holdfast-dr/holdfast/backup"
)

// dedupeKeyMin is the least length of a dedupe key: a key that can be guessed
// turns the name of a piece into the proof of a guess at what it holds.
const dedupeKeyMin = 32

// sampleRecipient stands in deploy/holdfast.sample.yaml. Its private half was
// thrown away: what is encrypted to it is lost.
const sampleRecipient = "age1c55a8qjm6lm2f47lnu6ypd7uy0u9s70nse72c7tgmjgckjfvyfjsck7vez"

// recoveryHost checks what a node needs on this host for the backups of its
// region and, on the node that drills, for drills. No other node needs, or
// should have, any of it.
func (c *checker) recoveryHost(n Node) {
	f := c.fleet
	if n.Witness {
		return
	}
	drills := f.Drill != nil && f.Drill.Region == n.Region
	for _, name := range f.RegionNames() {
		r, path, own := f.Regions[name], "regions."+string(name), name == n.Region
		if r.Postgres != nil && own {
			c.guarded(path+".postgres.dsn", r.Postgres.DSN)
		}
		if r.Repository == nil || !own && !(drills && slices.Contains(f.DrillOf(), name)) {
			continue
		}
		c.guarded(path+".repository.access_key", r.Repository.AccessKey)
		c.guarded(path+".repository.secret_key", r.Repository.SecretKey)
		if r.Repository.TLS != nil {
			c.certificate(path+".repository.tls", TLS{CA: r.Repository.TLS.CA}, "")
		}
		if !own {
			continue
		}
		if r.Repository.Recipient == sampleRecipient {
			c.refuse(path+".repository.recipient", "is the one of the sample", "nobody has its private half, so what is encrypted to it is lost", "age-keygen makes a pair of your own")
		}
		key := path + ".repository.dedupe_key"
		if value, ok := c.guarded(key, r.Repository.DedupeKey); ok && len(value) < dedupeKeyMin {
			c.refuse(key, fmt.Sprintf("has %d characters, fewer than %d", len(value), dedupeKeyMin), "with a key that can be guessed, names confirm guesses at what is stored", "openssl rand -hex 32")
		}
	}
	if drills {
		c.drillHost(*f.Drill)
	}
}

func (c *checker) drillHost(d Drill) {
	const path = "drill.identity"
	if text, ok := c.guarded(path, d.Identity); ok {
		c.identity(path, text)
	}
	if t := d.Target.ClickHouse; t != nil {
		if t.TLS != nil {
			c.certificate("drill.target.clickhouse.tls", *t.TLS, "")
		}
		if !t.Password.IsZero() {
			c.guarded("drill.target.clickhouse.password", t.Password)
		}
	}
	if t := d.Target.Postgres; t != nil {
		program := filepath.Join(t.Bin, string(backup.Postgres))
		switch info, err := os.Stat(program); {
		case err != nil:
			c.refuse("drill.target.postgres.bin", unreadable(err), "", "the directory that holds postgres, such as /usr/lib/postgresql/14/bin")
		case !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0:
			c.refuse("drill.target.postgres.bin", program+" is not a program", "", "the directory that holds postgres, such as /usr/lib/postgresql/14/bin")
		}
		if t.User != "" {
			if _, err := user.Lookup(t.User); err != nil {
				c.refuse("drill.target.postgres.user", fmt.Sprintf("%q is not a user of this host", shorten(t.User)), "", "postgres, or a user made for drills")
			}
		}
	}
}

// identity checks that the drill's key can read the sets it is to prove. What
// is in the file is never repeated.
func (c *checker) identity(path, text string) {
	identities, err := age.ParseIdentities(strings.NewReader(text))
	if err != nil {
		c.refuse(path, "holds no age identity", "", "the file that age-keygen -o writes, with the line AGE-SECRET-KEY-1…")
		return
	}
	var public []string
	for _, id := range identities {
		if x, ok := id.(*age.X25519Identity); ok {
			public = append(public, x.Recipient().String())
		}
	}
	for _, name := range c.fleet.DrillOf() {
		if r := c.fleet.Regions[name].Repository; !slices.Contains(public, strings.ToLower(r.Recipient)) {
			c.refuse(path, fmt.Sprintf("cannot read what is encrypted to the recipient of region %s", name), "a drill would read nothing of its sets",
				"the private half of that recipient; one file may hold several identities")
		}
	}
}

// guarded resolves a secret that others on this host must not read either.
func (c *checker) guarded(path string, s Secret) (string, bool) {
	if name, isFile := strings.CutPrefix(s.Reference(), "file:"); isFile {
		if info, err := os.Stat(name); err == nil && info.Mode().Perm()&0o007 != 0 {
			c.refuse(path, fmt.Sprintf("%s is open to every user of this host (mode %04o)", name, info.Mode().Perm()), "it reads or changes backups", "chmod 600 "+name+", owned by the daemon's user; or 640 and its group")
			return "", false
		}
	}
	value, err := s.Resolve()
	if err != nil {
		c.refuse(path, err.Error(), "", "")
		return "", false
	}
	return value, true
}
