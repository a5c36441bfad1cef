package recovery

import (
	"context"
	"log/slog"
	"net"
	"time"

	"github.com/holdfast-dr/holdfast/internal/clickhouse"
	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// Dial opens a connection to an address of the fleet file.
type Dial = func(ctx context.Context, network, address string) (net.Conn, error)

// Dialer connects through a node's address map.
func Dialer(me config.Node) Dial {
	d := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return d.DialContext(ctx, network, me.Dial(address))
	}
}

// OpenKafka prepares a client of a region's Kafka; it does not dial.
func OpenKafka(name topology.Region, k *config.Kafka, dial Dial, log *slog.Logger) (*kafka.Client, error) {
	kc := kafka.Config{
		Name: string(name), Brokers: k.Brokers, Dial: dial, ClusterID: k.ClusterID, Logger: log.With("store", "kafka", "region", name),
		DialTimeout: 3 * time.Second, RequestTimeout: 5 * time.Second, RetryTimeout: 10 * time.Second,
	}
	if k.TLS != nil {
		kc.TLS = &kafka.TLS{CAFile: k.TLS.CA, CertFile: k.TLS.Cert, KeyFile: k.TLS.Key}
	}
	if k.SASL != nil {
		kc.SASL = &kafka.SASL{Mechanism: kafka.Mechanism(k.SASL.Mechanism), User: k.SASL.User, Password: k.SASL.Password.Resolve}
	}
	return kafka.Open(kc)
}

// OpenClickHouse prepares a client of a region's ClickHouse; it does not dial.
func OpenClickHouse(name topology.Region, c *config.ClickHouse, dial Dial) (*clickhouse.Client, error) {
	return openClickHouse(string(name), c.Addresses, c.Database, c.User, c.Password, c.TLS, dial)
}

func openClickHouse(name string, addresses []string, database, user string, password config.Secret, tls *config.TLS, dial Dial) (*clickhouse.Client, error) {
	cc := clickhouse.Config{Name: name, Addresses: addresses, Database: database, User: user, Dial: dial, DialTimeout: 3 * time.Second}
	if !password.IsZero() {
		cc.Password = password.Resolve
	}
	if tls != nil {
		cc.TLS = &clickhouse.TLS{CAFile: tls.CA, CertFile: tls.Cert, KeyFile: tls.Key}
	}
	return clickhouse.Open(cc)
}
