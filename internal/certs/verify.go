package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

const scheme = "holdfast"

// Name is who a certificate speaks for. Cluster is empty when the certificate
// comes from a PKI that knows only the node.
type Name struct {
	Cluster string
	Node    topology.Node
}

// String returns the form of the URI SAN, holdfast://CLUSTER/NODE.
func (n Name) String() string { return n.uri().String() }

func (n Name) uri() *url.URL {
	return &url.URL{Scheme: scheme, Host: n.Cluster, Path: "/" + string(n.Node)}
}

// NameOf returns whom the certificate speaks for: its one holdfast URI, or
// else its one DNS name without a dot.
func NameOf(c *x509.Certificate) (Name, error) {
	var found []Name
	for _, u := range c.URIs {
		if u.Scheme != scheme {
			continue
		}
		found = append(found, Name{Cluster: u.Host, Node: topology.Node(strings.TrimPrefix(u.Path, "/"))})
	}
	if len(found) == 0 {
		for _, d := range c.DNSNames {
			if !strings.Contains(d, ".") && d != "localhost" {
				found = append(found, Name{Node: topology.Node(d)})
			}
		}
	}
	if len(found) != 1 {
		return Name{}, fmt.Errorf("names %d nodes (want one URI SAN %s://CLUSTER/NODE, or one DNS SAN that is the node's name)", len(found), scheme)
	}
	if err := topology.CheckName("node", string(found[0].Node)); err != nil {
		return Name{}, err
	}
	return found[0], nil
}

// PeerName returns whom the other end of a connection speaks for. The
// connection must have been made with Identity.Server or Identity.Client:
// they have verified the certificate.
func PeerName(cs tls.ConnectionState) (Name, error) {
	if len(cs.PeerCertificates) == 0 {
		return Name{}, errors.New("the peer showed no certificate")
	}
	return NameOf(cs.PeerCertificates[0])
}

// trust is what a certificate is checked against.
type trust struct {
	roots   *x509.CertPool
	file    string // of the roots
	cluster string
	now     time.Time
}

const fixIssue = "issue a new one with `holdfast certs init` on the machine that holds the CA key"

// check says whether chain, whose first certificate is subject's own, is good
// for the uses now, belongs to the cluster, and names want (any node if
// empty). Errors are *Problem.
func (t trust) check(subject string, chain []*x509.Certificate, want topology.Node, uses ...x509.ExtKeyUsage) (Name, error) {
	leaf := chain[0]
	switch {
	case t.now.After(leaf.NotAfter):
		return Name{}, &Problem{Kind: Expired, Subject: subject, What: "expired " + at(leaf.NotAfter, t.now),
			Fix: fixIssue + ", or correct this machine's clock"}
	case t.now.Before(leaf.NotBefore):
		return Name{}, &Problem{Kind: NotYetValid, Subject: subject, What: "is not valid yet: it starts " + at(leaf.NotBefore, t.now),
			Fix: "this machine's clock is probably behind: it reads " + t.now.UTC().Format(stamp)}
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	for _, use := range uses {
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots: t.roots, Intermediates: between, CurrentTime: t.now, KeyUsages: []x509.ExtKeyUsage{use},
		})
		if err != nil {
			return Name{}, t.explain(subject, leaf, err)
		}
	}
	name, err := NameOf(leaf)
	if err != nil {
		return Name{}, &Problem{Kind: WrongName, Subject: subject, What: "does not say which node it is for", Cause: err, Fix: fixIssue}
	}
	if name.Cluster != "" && name.Cluster != t.cluster {
		return Name{}, &Problem{Kind: WrongName, Subject: subject,
			What: fmt.Sprintf("is for %s, which is another cluster than ours, %s", name, t.cluster),
			Fix:  "check `cluster` in the fleet file, and that each node uses its own files"}
	}
	if want != "" && name.Node != want {
		return Name{}, &Problem{Kind: WrongName, Subject: subject,
			What: fmt.Sprintf("is for the node %s, not for %s", name.Node, want),
			Fix:  "check the `peer` addresses in the fleet file, and that each node uses its own files"}
	}
	return name, nil
}

func (t trust) explain(subject string, leaf *x509.Certificate, err error) error {
	var unknown x509.UnknownAuthorityError
	var bad x509.CertificateInvalidError
	p := &Problem{Kind: WrongCA, Subject: subject, Cause: err}
	switch {
	case errors.As(err, &unknown):
		p.What = fmt.Sprintf("is not signed by the CA in %s (its issuer is %q)", t.file, leaf.Issuer.CommonName)
		p.Fix = "all nodes need certificates of one CA, and its certificate as their CA file"
	case errors.As(err, &bad) && bad.Reason == x509.Expired:
		// The leaf was checked before: this is a CA above it.
		p.Kind, p.What = Expired, "is signed by a CA that is not valid now"
		p.Fix = "make a new CA and new certificates with `holdfast certs init` in an empty folder, or correct this machine's clock"
	case errors.As(err, &bad) && bad.Reason == x509.IncompatibleUsage:
		p.Kind, p.What = WrongUse, "is not for both TLS servers and TLS clients"
		p.Fix = "every node is both: issue it with the extended key usages serverAuth and clientAuth"
	default:
		p.What, p.Fix = "cannot be verified", fixIssue
	}
	return p
}
