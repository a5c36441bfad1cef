// Package certs is who we are on the wire: it makes the certificates of a lab
// fleet, and loads those of any fleet into TLS configurations that know the
// node at the other end.
//
// # Words
//
// A Name is (cluster, node). A certificate carries it as the URI SAN
// holdfast://CLUSTER/NODE and the node once more as a DNS SAN. A certificate
// from a PKI of your own may carry only the DNS SAN: then its one name
// without a dot is the node, and the cluster rests on the CA alone.
//
// # Promises
//
//   - TLS 1.3 only, both sides show a certificate, and it is verified against
//     the fleet's CA and nothing else: the system's roots are never asked.
//   - A handshake succeeds only with a certificate that is valid now, made for
//     that use, of our cluster, and (dialling) of the very node that was meant.
//   - No session is resumed, so an expired certificate ends with its
//     connections.
//   - What a node signed is bound to its domain ("seal" is not "report"), and
//     stays good after the certificate has expired: it is judged as of then.
//   - Files are read anew when they change; a new set that does not fit
//     together is not taken, and Check says why.
//   - Init never replaces a file unless forced, never replaces a CA at all,
//     writes each file whole or not at all, and only for its owner (0600).
//   - Errors name the file or the peer, what is wrong with it, and what to do.
//
// # Files
//
//	issue.go      the lab CA, node certificates, Init
//	identity.go   Load, the TLS configurations, reload
//	verify.go     whose certificate is this, and is it good now?
//	sign.go       signatures of a node under what it wrote, and who may check them
//	error.go      Problem, and how it reads
package certs
