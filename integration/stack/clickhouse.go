package stack

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// ClickHouseOptions describes one ClickHouse. The zero value is a server on
// free ports, in a temporary folder.
type ClickHouseOptions struct {
	Name     string // in messages and file names; default "clickhouse"
	Dir      string // configuration and data; default a temporary folder
	Log      string // default NAME.log in Dir
	Port     int    // native; 0: a free one, kept over restarts
	HTTPPort int    // 0: a free one, kept over restarts
	User     string // default "sentry"
	Password string // default the same word for all
	Database string // made at start; default "sentry"

	// Collections are the named collections of the server: places in S3 that a
	// statement names, as in BACKUP ... TO S3(name, 'path'), so that it need
	// not hold the keys.
	Collections map[string]Collection

	// MemoryBytes caps what the server allows itself; default 1 GiB.
	MemoryBytes int64
	// Config is raw XML, added inside <clickhouse> of the main file.
	Config string

	Progress io.Writer // plain lines; nil: silence
}

// Collection is a place in S3 and the keys to it.
type Collection struct {
	URL                  string // of a bucket, or of a folder in it
	AccessKey, SecretKey string
}

// ClickHouse is one server.
type ClickHouse struct {
	*service
	port, httpPort           int
	user, password, database string
}

var identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)

// StartClickHouse installs the engine if needed, starts the server and returns
// when it answers queries and the database exists. Close it after use.
func StartClickHouse(ctx context.Context, o ClickHouseOptions) (*ClickHouse, error) {
	if o.Password == "" {
		o.Password = "word-of-the-rig-5f1c" // no other text holds it: tests look for it where it must not be
	}
	for what, name := range map[string]*string{"user": &o.User, "database": &o.Database} {
		if *name == "" {
			*name = "sentry"
		}
		if !identifier.MatchString(*name) {
			return nil, fmt.Errorf("start ClickHouse: %s %q is no plain name; use letters, digits and underscores", what, *name)
		}
	}
	for name := range o.Collections {
		if !identifier.MatchString(name) {
			return nil, fmt.Errorf("start ClickHouse: collection %q is no plain name; use letters, digits and underscores", name)
		}
	}
	if o.Name == "" {
		o.Name = "clickhouse"
	}
	if o.MemoryBytes == 0 {
		o.MemoryBytes = 1 << 30
	}
	lib, err := installClickHouse(ctx, o.Progress)
	if err != nil {
		return nil, err
	}
	launcher, err := installLauncher(ctx, o.Progress)
	if err != nil {
		return nil, err
	}
	s, err := newService(o.Name, o.Dir, o.Log, o.Progress)
	if err != nil {
		return nil, err
	}
	c := &ClickHouse{service: s, user: o.User, password: o.Password, database: o.Database}
	if err := c.prepare(o, lib, launcher); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.listens = []int{c.port, c.httpPort}
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// InstallClickHouse brings the engine, and what it needs to run, onto this
// machine without running it.
func InstallClickHouse(ctx context.Context, progress io.Writer) error {
	if _, err := installLauncher(ctx, progress); err != nil {
		return err
	}
	_, err := installClickHouse(ctx, progress)
	return err
}

func installClickHouse(ctx context.Context, progress io.Writer) (string, error) {
	dir, err := install(ctx, progress, "clickhouse-"+chdb.version, func(dir string) error {
		return fetchNPM(ctx, progress, chdb, dir)
	})
	return filepath.Join(dir, "libchdb.so"), err
}

func (c *ClickHouse) prepare(o ClickHouseOptions, lib, launcher string) error {
	var err error
	if c.port, err = c.service.port(o.Port); err != nil {
		return err
	}
	if c.httpPort, err = c.service.port(o.HTTPPort); err != nil {
		return err
	}
	inner, err := c.service.port(0) // see relay in the launcher
	if err != nil {
		return err
	}
	data := filepath.Join(c.dir, "data")
	if err := os.MkdirAll(data, 0o755); err != nil {
		return fmt.Errorf("make the data folder of %s: %w", c.name, err)
	}
	// The engine starts with its defaults when the file is not there, without
	// a word; so it is written each time.
	config := filepath.Join(c.dir, "config.xml")
	if err := os.WriteFile(config, o.config(), 0o600); err != nil {
		return fmt.Errorf("write the configuration of %s: %w", c.name, err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "users.xml"), o.users(), 0o600); err != nil {
		return fmt.Errorf("write the users of %s: %w", c.name, err)
	}
	c.command = command{
		launcher: launcher,
		program:  launcher,
		args: []string{
			"clickhouse", lib, loopback(c.port), loopback(inner), "--config-file=" + config, "--path=" + data, "--listen_host=127.0.0.1",
			fmt.Sprintf("--tcp_port=%d", inner), fmt.Sprintf("--http_port=%d", c.httpPort),
		},
		dir: c.dir, // the engine also reads configuration from its working directory
		log: c.log,
	}
	c.ready = c.serves
	return nil
}

func (o ClickHouseOptions) config() []byte {
	return fmt.Appendf(nil, `<clickhouse>
 <users_config>users.xml</users_config>
 <max_server_memory_usage>%d</max_server_memory_usage>
 <mark_cache_size>33554432</mark_cache_size>
 <uncompressed_cache_size>0</uncompressed_cache_size>
 <background_pool_size>4</background_pool_size>
 <background_schedule_pool_size>8</background_schedule_pool_size>
 <merge_tree>
  <number_of_free_entries_in_pool_to_lower_max_size_of_merge>2</number_of_free_entries_in_pool_to_lower_max_size_of_merge>
  <number_of_free_entries_in_pool_to_execute_mutation>2</number_of_free_entries_in_pool_to_execute_mutation>
  <number_of_free_entries_in_pool_to_execute_optimize_entire_partition>2</number_of_free_entries_in_pool_to_execute_optimize_entire_partition>
 </merge_tree>
 %s%s
</clickhouse>
`, o.MemoryBytes, o.collections(), o.Config)
}

// collections go into the file that only the server reads: what CREATE NAMED
// COLLECTION makes would show its keys in the statement.
func (o ClickHouseOptions) collections() string {
	if len(o.Collections) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("<named_collections>\n")
	for _, name := range slices.Sorted(maps.Keys(o.Collections)) {
		c := o.Collections[name]
		fmt.Fprintf(&b, "  <%[1]s><url>%[2]s/</url><access_key_id>%[3]s</access_key_id><secret_access_key>%[4]s</secret_access_key></%[1]s>\n",
			name, escape(strings.TrimSuffix(c.URL, "/")), escape(c.AccessKey), escape(c.SecretKey))
	}
	b.WriteString(" </named_collections>\n ")
	return b.String()
}

// users makes our user. The engine's own session logs in as default, without a
// password and from an address of its own, so that user must stay; the server
// listens on loopback only.
func (o ClickHouseOptions) users() []byte {
	return fmt.Appendf(nil, `<clickhouse>
 <users>
  <default><password></password><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota></default>
  <%[1]s><password>%[2]s</password><networks><ip>127.0.0.1</ip></networks><profile>default</profile><quota>default</quota>
   <access_management>1</access_management><named_collection_control>1</named_collection_control></%[1]s>
 </users>
 <profiles><default><max_threads>2</max_threads></default></profiles>
 <quotas><default/></quotas>
</clickhouse>
`, o.User, escape(o.Password))
}

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s)) // a Buffer never fails
	return b.String()
}

func (c *ClickHouse) serves(ctx context.Context) error {
	return c.Exec(ctx, "CREATE DATABASE IF NOT EXISTS "+c.database)
}

// httpClient keeps no connection: servers come and go under it.
var httpClient = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// Exec runs one statement over HTTP as the service's own user and drops its
// result. For anything more, connect a client to Address.
func (c *ClickHouse) Exec(ctx context.Context, statement string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+c.HTTPAddress()+"/", strings.NewReader(statement))
	if err != nil {
		return fmt.Errorf("run a statement on %s: %w", c.name, err)
	}
	req.Header.Set("X-ClickHouse-User", c.user)
	req.Header.Set("X-ClickHouse-Key", c.password)
	res, err := httpClient.Do(req)
	if err != nil {
		return fmt.Errorf("run a statement on %s: %w", c.name, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return fmt.Errorf("run a statement on %s: %w", c.name, err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("run a statement on %s: %s: %s", c.name, res.Status, bytes.TrimSpace(body))
	}
	return nil
}

// Address is the host:port of the native protocol.
func (c *ClickHouse) Address() string { return loopback(c.port) }

// HTTPAddress is the host:port of the HTTP interface.
func (c *ClickHouse) HTTPAddress() string { return loopback(c.httpPort) }

// User is who a client logs in as.
func (c *ClickHouse) User() string { return c.user }

// Password is the user's password.
func (c *ClickHouse) Password() string { return c.password }

// Database exists from the first start on.
func (c *ClickHouse) Database() string { return c.database }
