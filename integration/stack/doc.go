// Package stack installs real services, runs them on loopback without
// containers, and breaks the network between them on purpose. The integration
// tests and the demo stand on it; the product never imports it.
//
// The promise:
//
//   - What runs is what was pinned: every download is compared with a hash in
//     this package before it is used, and an installation appears under its
//     final name whole or not at all.
//   - Nothing survives. Each server runs under a launcher that holds a pipe
//     from this process; when the pipe closes, for whatever reason, SIGKILL of
//     this process included, the launcher kills the server. A paused server
//     dies too.
//   - A service keeps its data, its ports and its log over Stop, Kill and
//     Restart. Only Close gives them up.
//   - Everything listens on 127.0.0.1.
//
// The words: a service is a running server (Kafka, ClickHouse, Postgres, S3). A
// place is one end of a link: a region, or a node such as a witness. A link is
// everything that travels from one place to another; a Proxy is one TCP address
// on it.
//
// The files:
//
//	kafka.go       one KRaft node: StartKafka, KafkaOptions
//	kafka_cluster.go  several nodes: StartKafkaCluster
//	kafka_login.go users, passwords and ACLs: KafkaOptions.Users
//	java.go        jars and what runs them; Kafka's own tools: JavaTool
//	mirrormaker.go MirrorMaker 2, to measure against: StartMirrorMaker
//	clickhouse.go  one ClickHouse server: StartClickHouse, ClickHouseOptions
//	postgres.go    one Postgres server: StartPostgres, PostgresOptions
//	s3.go          one S3 server: StartS3, S3Options
//	certificates.go  a throw-away authority for those that speak TLS
//	user.go        servers that refuse to run as root run as nobody
//	service.go     what every service can do: Stop, Kill, Pause, Restart, Close
//	process.go     one server process under the launcher
//	launcher/      that launcher: a small static program, built on first use
//	pins.go        what is downloaded, in which version, with which SHA-256
//	install.go     the cache folder: lock, temporary name, rename
//	fetch.go       npm, Maven and Go, through the user's own clients
//	needs.go       programs that must be there, and how to get them
//	ports.go       free ports that no outgoing connection can take
//	proxy.go       one TCP proxy that delays, throttles, cuts and refuses
//	shape.go       how one direction of one connection is delayed and throttled
//	links.go       proxies grouped by (from, to); a dialer that goes through them
//	need.go        the rule for tests: skip on a desk, fail in CI
//	cmd/           the program behind "make stack"
//
// ClickHouse here is ClickHouse's own engine built as a library, served over
// its own native and HTTP ports; it has no system.query_log, no users made by
// SQL, and its log holds little but errors at start and crashes. A service added
// later is one file that embeds service, and one row in pins.go.
package stack
