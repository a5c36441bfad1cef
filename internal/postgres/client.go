package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Config says how to reach one server.
type Config struct {
	Name string // in errors, such as the region
	// DSN returns a libpq connection string or URL. It is asked for each
	// connection; its value is never kept or printed.
	DSN func() (string, error)
	// Dial sees the addresses as the DSN has them, also the path of a unix
	// socket; nil: net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// ConnectTimeout bounds one attempt at one address, from the first packet
	// until the server is ready for queries; default 5 s.
	ConnectTimeout time.Duration
}

// Client reaches one server. It is safe for concurrent use and holds no
// connection of its own: who opens one closes it.
type Client struct{ conf Config }

// Open prepares a client; it does not dial.
func Open(c Config) (*Client, error) {
	if c.DSN == nil {
		return nil, fmt.Errorf("postgres %s: no dsn: want a connection string, such as host=db.example user=holdfast dbname=sentry", c.Name)
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 5 * time.Second
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext
	}
	return &Client{c}, nil
}

// Name is the server as errors call it.
func (c *Client) Name() string { return c.conf.Name }

// Connect opens a connection to a database; an empty name means the one of
// the DSN.
func (c *Client) Connect(ctx context.Context, database string) (*pgx.Conn, error) {
	conf, err := c.parse()
	if err != nil {
		return nil, err
	}
	if database != "" {
		conf.Database = database
	}
	conn, err := pgx.ConnectConfig(ctx, conf)
	if err != nil {
		return nil, c.explain(&conf.Config, err)
	}
	return conn, nil
}

// Replication opens a connection for physical replication commands. It knows
// the simple protocol only.
func (c *Client) Replication(ctx context.Context) (*pgconn.PgConn, error) {
	conf, err := c.parse()
	if err != nil {
		return nil, err
	}
	conf.RuntimeParams["replication"] = "true"
	conn, err := pgconn.ConnectConfig(ctx, &conf.Config)
	if err != nil {
		return nil, c.explain(&conf.Config, err)
	}
	return conn, nil
}

// Version asks the server who it is, such as "14.23".
func (c *Client) Version(ctx context.Context) (string, error) {
	conn, err := c.Connect(ctx, "")
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	return conn.PgConn().ParameterStatus("server_version"), nil
}

// Major is the number that decides whether two servers read the same data
// directory: 14 of "14.23 (Debian 14.23-1)", 18 of "18beta1".
func Major(version string) (int, error) {
	end := strings.IndexFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(version)
	}
	n, err := strconv.Atoi(version[:end])
	if err != nil || n < 1 {
		return 0, fmt.Errorf("read postgres version %q: want a number first", version)
	}
	return n, nil
}

func (c *Client) parse() (*pgx.ConnConfig, error) {
	dsn, err := c.conf.DSN()
	if err != nil {
		return nil, fmt.Errorf("postgres %s: read the dsn: %w", c.conf.Name, err)
	}
	conf, err := pgx.ParseConfig(dsn)
	if err != nil {
		// The parser's error holds the whole string, password and all, so
		// nothing of it is passed on but the name of a file that is not there.
		var file *fs.PathError
		if errors.As(err, &file) && file.Path != "" && !strings.Contains(file.Path, "://") {
			return nil, fmt.Errorf("postgres %s: the dsn names a file: %w", c.conf.Name, file)
		}
		return nil, fmt.Errorf("postgres %s: the dsn cannot be read: want host=… user=… password=… dbname=…, or postgres://user:password@host/database; "+
			"quote or percent-encode special letters in the password", c.conf.Name)
	}
	conf.ConnectTimeout = c.conf.ConnectTimeout
	conf.DialFunc = c.conf.Dial
	// Names are resolved by Dial, which may be an address map.
	conf.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	// The protocol of the library needs both, whatever a database or a role
	// of an old server has by default.
	conf.RuntimeParams["client_encoding"] = "UTF8"
	conf.RuntimeParams["standard_conforming_strings"] = "on"
	if _, set := conf.RuntimeParams["application_name"]; !set {
		conf.RuntimeParams["application_name"] = "holdfast"
	}
	return conf, nil
}

// explain says whose error it is. The library's own error holds the
// configuration with the password, so only what is below it is passed on.
func (c *Client) explain(conf *pgconn.Config, err error) error {
	var outer *pgconn.ConnectError
	for errors.As(err, &outer) {
		err = errors.Unwrap(outer)
	}
	var spoke *pgconn.PgError
	if errors.As(err, &spoke) {
		return fmt.Errorf("connect to postgres %s at %s:%d as %s: %w", c.conf.Name, conf.Host, conf.Port, conf.User, spoke)
	}
	what := err.Error()
	if p := conf.Password; p != "" && p != conf.User && p != conf.Database {
		what = strings.ReplaceAll(what, p, "****")
	}
	return &unreachable{fmt.Sprintf("reach postgres %s at %s:%d: %s (is it running, and are address and sslmode right?)", c.conf.Name, conf.Host, conf.Port, what), err}
}

// unreachable has a text of its own and can still be asked for its cause.
type unreachable struct {
	text  string
	cause error
}

func (e *unreachable) Error() string { return e.text }
func (e *unreachable) Unwrap() error { return e.cause }
