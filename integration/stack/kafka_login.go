package stack

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
)

// Admin is the user of a Kafka with KafkaOptions.Users that no ACL holds back.
const Admin = "admin"

// loginProperties make every connection log in, those between the nodes of a
// cluster included, and let ACLs decide what is allowed.
var loginProperties = map[string]string{
	"sasl.enabled.mechanisms":              "PLAIN",
	"sasl.mechanism.inter.broker.protocol": "PLAIN",
	"sasl.mechanism.controller.protocol":   "PLAIN",
	"authorizer.class.name":                "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
	"super.users":                          "User:" + Admin,
}

// newPasswords gives each user a password, and Admin too. No users: nil.
func newPasswords(users []string) map[string]string {
	if len(users) == 0 {
		return nil
	}
	p := map[string]string{Admin: rand.Text()}
	for _, u := range users {
		p[u] = rand.Text()
	}
	return p
}

// serverLogin is the JAAS file of a broker: who it is, and whom it knows.
func serverLogin(passwords map[string]string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "KafkaServer {\n  org.apache.kafka.common.security.plain.PlainLoginModule required\n  username=%q password=%q", Admin, passwords[Admin])
	for _, user := range slices.Sorted(maps.Keys(passwords)) {
		fmt.Fprintf(&b, "\n  user_%s=%q", user, passwords[user])
	}
	b.WriteString(";\n};\n")
	return b.Bytes()
}

// Password is a user's password; it is empty for one that is not in
// KafkaOptions.Users.
func (k *Kafka) Password(user string) string { return k.passwords[user] }

// ClientOptions log a client of franz-go in as a user. They are none where
// nobody logs in.
func (k *Kafka) ClientOptions(user string) []kgo.Opt {
	if k.passwords == nil {
		return nil
	}
	return []kgo.Opt{kgo.SASL(plain.Plain(func(context.Context) (plain.Auth, error) {
		return plain.Auth{User: user, Pass: k.passwords[user]}, nil
	}))}
}

// ClientProperties writes a file by which Java clients log in as a user, such
// as for --consumer.config, and returns its path.
func (k *Kafka) ClientProperties(user string) (string, error) {
	path := filepath.Join(k.dir, "client-"+user+".properties")
	words := fmt.Sprintf("security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\nsasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username=%q password=%q;\n", user, k.passwords[user])
	if k.passwords == nil {
		words = "security.protocol=PLAINTEXT\n"
	}
	if err := os.WriteFile(path, []byte(words), 0o600); err != nil {
		return "", fmt.Errorf("write the client properties of %s: %w", k.name, err)
	}
	return path, nil
}
