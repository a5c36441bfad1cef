package certs

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

var day = 24 * time.Hour

// fleet makes certificates of cluster "lab" for nodes, as of now.
func fleet(t *testing.T, now time.Time, nodes ...topology.Node) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "certs")
	if _, err := Init(InitOptions{Dir: dir, Cluster: "lab", Nodes: nodes, Now: func() time.Time { return now }}); err != nil {
		t.Fatal(err)
	}
	return dir
}

func load(t *testing.T, dir string, node topology.Node, now time.Time) *Identity {
	t.Helper()
	i, err := Load(Options{Files: FilesIn(dir, node), Cluster: "lab", Node: node, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// shake runs one handshake and returns what each side saw.
func shake(t *testing.T, server, client *tls.Config) (atServer Name, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := l.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(5 * time.Second))
		c := tls.Server(raw, server)
		if serverErr = c.Handshake(); serverErr != nil {
			return
		}
		atServer, serverErr = PeerName(c.ConnectionState())
		c.Write([]byte("k"))
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(5 * time.Second))
	c := tls.Client(raw, client)
	if clientErr = c.Handshake(); clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1)) // in TLS 1.3 a refusal by the server arrives here
	}
	raw.Close()
	<-done
	return atServer, serverErr, clientErr
}

func wantProblem(t *testing.T, err error, kind Kind, words ...string) {
	t.Helper()
	var p *Problem
	if !errors.As(err, &p) {
		t.Fatalf("want a Problem of kind %s, got %v", kind, err)
	}
	if p.Kind != kind {
		t.Errorf("want kind %s, got %s: %v", kind, p.Kind, err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("the error does not say %q: %v", w, err)
		}
	}
}

func TestInit_MakesCertificatesThatNodesAcceptFromEachOther(t *testing.T) {
	now := time.Now()
	dir := fleet(t, now, "a", "b")
	name, serverErr, clientErr := shake(t, load(t, dir, "a", now).Server("x/1"), load(t, dir, "b", now).Client("a", "x/1"))
	if serverErr != nil || clientErr != nil {
		t.Fatalf("server %v, client %v", serverErr, clientErr)
	}
	if name != (Name{"lab", "b"}) || name.String() != "holdfast://lab/b" {
		t.Errorf("the server took the client for %s", name)
	}
	i := load(t, dir, "a", now)
	if left := i.NotAfter().Sub(now); left < 364*day || left > 366*day {
		t.Errorf("a node certificate lasts %s", left)
	}
	if err := i.Check(); err != nil {
		t.Error(err)
	}
}

func TestInit_WritesForTheOwnerOnlyAndNeverReplaces(t *testing.T) {
	now := time.Now()
	dir := fleet(t, now, "a")
	before := snapshot(t, dir)
	for path := range before {
		fi, err := os.Stat(filepath.Join(dir, path))
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", path, fi.Mode(), err)
		}
	}
	res, err := Init(InitOptions{Dir: dir, Cluster: "lab", Nodes: []topology.Node{"a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Kept) != 4 || len(res.Written) != 2 {
		t.Errorf("kept %v, wrote %v", res.Kept, res.Written)
	}
	after := snapshot(t, dir)
	for path, was := range before {
		if after[path] != was {
			t.Errorf("%s was replaced", path)
		}
	}
	load(t, dir, "b", now) // the added node hangs on the same CA

	if _, err := Init(InitOptions{Dir: dir, Cluster: "lab", Nodes: []topology.Node{"a"}, Renew: true}); err != nil {
		t.Fatal(err)
	}
	renewed := snapshot(t, dir)
	if renewed["a.pem"] == before["a.pem"] || renewed["a.key"] == before["a.key"] {
		t.Error("Renew kept the old files")
	}
	if renewed["ca.pem"] != before["ca.pem"] || renewed["ca.key"] != before["ca.key"] {
		t.Error("Renew replaced the CA")
	}
	load(t, dir, "a", now)
	if err := writeFile(filepath.Join(dir, "a.pem"), []byte("x"), false); !errors.Is(err, os.ErrExist) {
		t.Errorf("writeFile over an existing file: %v", err)
	}
	if got := snapshot(t, dir); len(got) != len(renewed) {
		t.Errorf("temporary files were left: %v", got)
	}
}

func TestInit_RefusesHalfAPairAndAnAgedCA(t *testing.T) {
	now := time.Now()
	dir := fleet(t, now, "a")
	if err := os.Remove(filepath.Join(dir, "a.key")); err != nil {
		t.Fatal(err)
	}
	_, err := Init(InitOptions{Dir: dir, Cluster: "lab", Nodes: []topology.Node{"a"}})
	wantProblem(t, err, Missing, "a.key", "is missing", "a.pem exists")

	old := fleet(t, now.Add(-9*365*day-day), "a")
	_, err = Init(InitOptions{Dir: old, Cluster: "lab", Nodes: []topology.Node{"b"}})
	wantProblem(t, err, Expired, "ca.pem", "new CA in an empty folder")

	if _, err := Init(InitOptions{Dir: t.TempDir(), Cluster: "lab"}); err == nil {
		t.Error("no node named, and no error")
	}
	if _, err := Init(InitOptions{Dir: t.TempDir(), Cluster: "lab", Nodes: []topology.Node{"ca"}}); err == nil {
		t.Error(`a node called "ca" would overwrite the CA`)
	}
}

func TestLoad_SaysWhichFileIsWrongAndHow(t *testing.T) {
	now := time.Now()
	dir := fleet(t, now, "a", "b")
	other := fleet(t, now, "a")
	f := FilesIn(dir, "a")
	try := func(files Files, cluster string, node topology.Node, when time.Time) error {
		_, err := Load(Options{Files: files, Cluster: cluster, Node: node, Now: func() time.Time { return when }})
		return err
	}
	end := now.Add(ValidityNode)
	wantProblem(t, try(f, "lab", "a", end.Add(3*day+time.Hour)), Expired,
		f.Cert, "expired 3 days ago, on "+end.UTC().Format("2006-01-02"), "holdfast certs init")
	wantProblem(t, try(f, "lab", "a", now.Add(-day)), NotYetValid, f.Cert, "not valid yet", "in 23 hours", "clock is probably behind")
	wantProblem(t, try(Files{FilesIn(other, "a").CA, f.Cert, f.Key}, "lab", "a", now), WrongCA, f.Cert, "is not signed by the CA in "+FilesIn(other, "a").CA)
	wantProblem(t, try(f, "lab", "b", now), WrongName, f.Cert, "for the node a, not for b")
	wantProblem(t, try(f, "prod", "a", now), WrongName, f.Cert, "another cluster than ours, prod")
	wantProblem(t, try(Files{f.CA, f.Cert, FilesIn(dir, "b").Key}, "lab", "a", now), KeyMismatch, "b.key", "does not belong to the certificate "+f.Cert)
	wantProblem(t, try(Files{f.CA, f.Cert, filepath.Join(dir, "none")}, "lab", "a", now), Unreadable, "none", "certs init")
	wantProblem(t, try(Files{f.Key, f.Cert, f.Key}, "lab", "a", now), Malformed, "CA certificate "+f.Key)
	wantProblem(t, try(Files{f.CA, f.Key, f.Key}, "lab", "a", now), Malformed, "certificate "+f.Key)
	if err := os.Chmod(f.Key, 0o644); err != nil {
		t.Fatal(err)
	}
	wantProblem(t, try(f, "lab", "a", now), Exposed, f.Key, "chmod 600")
}

func TestHandshake_RefusesAnyoneButTheNodeThatWasMeant(t *testing.T) {
	now := time.Now()
	dir, foreign := fleet(t, now, "a", "b", "c"), fleet(t, now, "b")
	a, b := load(t, dir, "a", now), load(t, dir, "b", now)

	_, _, err := shake(t, a.Server("x/1"), b.Client("c", "x/1"))
	wantProblem(t, err, WrongName, "the peer a", "for the node a, not for c")

	// b of another CA, which does not know ours either: told to skip its own check.
	rogue := load(t, foreign, "b", now).Client("a", "x/1")
	rogue.VerifyConnection = nil
	_, err, clientErr := shake(t, a.Server("x/1"), rogue)
	wantProblem(t, err, WrongCA, "the peer b", "is not signed by the CA in")
	if clientErr == nil {
		t.Error("the client of another CA was let in")
	}

	late := now.Add(ValidityNode + 2*day)
	expired := b.Client("a", "x/1")
	expired.VerifyConnection = nil
	lateA := &Identity{o: a.o, good: a.good}
	lateA.o.Now = func() time.Time { return late }
	_, err, _ = shake(t, lateA.Server("x/1"), expired)
	wantProblem(t, err, Expired, "the peer b", "expired 2 days ago")
	wantProblem(t, lateA.Check(), Expired, "a.pem")

	lateB := &Identity{o: b.o, good: b.good}
	lateB.o.Now = func() time.Time { return late }
	own := lateB.Client("a", "x/1")
	own.VerifyConnection = nil
	_, _, err = shake(t, a.Server("x/1"), own)
	wantProblem(t, err, Expired, "our own certificate", "b.pem")

	naked := b.Client("a", "x/1")
	naked.GetClientCertificate = nil
	if _, err, _ := shake(t, a.Server("x/1"), naked); err == nil {
		t.Error("a client without a certificate was let in")
	}
	old := b.Client("a", "x/1")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, err, _ := shake(t, a.Server("x/1"), old); err == nil {
		t.Error("TLS 1.2 was accepted")
	}
	if _, err, _ := shake(t, a.Server("x/1"), b.Client("a", "y/1")); err == nil {
		t.Error("a protocol that is not offered was agreed on")
	}
}

func TestIdentity_TakesNewFilesOnlyWhenTheyFitTogether(t *testing.T) {
	now := time.Now()
	dir := fleet(t, now.Add(-ValidityNode+10*day), "a", "b")
	a := load(t, dir, "a", now)
	was := a.NotAfter()

	// A half-copied renewal: the certificate is new, the key is not yet.
	renewed := t.TempDir()
	for _, name := range []string{"ca.pem", "ca.key"} {
		copyFile(t, filepath.Join(dir, name), filepath.Join(renewed, name))
	}
	if _, err := Init(InitOptions{Dir: renewed, Cluster: "lab", Nodes: []topology.Node{"a"}}); err != nil {
		t.Fatal(err)
	}
	copyFile(t, filepath.Join(renewed, "a.pem"), filepath.Join(dir, "a.pem"))
	later(t, filepath.Join(dir, "a.pem"))
	if !a.NotAfter().Equal(was) {
		t.Error("a certificate without its key was taken")
	}
	wantProblem(t, a.Check(), KeyMismatch, "newer certificate files were not taken", "a.key")

	copyFile(t, filepath.Join(renewed, "a.key"), filepath.Join(dir, "a.key"))
	later(t, filepath.Join(dir, "a.key"))
	if got := a.NotAfter(); !got.After(was) {
		t.Errorf("the renewed certificate was not taken: %s", got)
	}
	if err := a.Check(); err != nil {
		t.Error(err)
	}
	if _, serverErr, clientErr := shake(t, a.Server("x/1"), load(t, dir, "b", now).Client("a", "x/1")); serverErr != nil || clientErr != nil {
		t.Errorf("after the reload: server %v, client %v", serverErr, clientErr)
	}
}

func TestNameOf_WantsExactlyOneNode(t *testing.T) {
	ca, err := NewAuthority("lab", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pem, _, err := ca.Issue("a", []string{"a.example.com", "10.0.0.1", "a"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseCert(pem)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.DNSNames, []string{"a", "a.example.com"}) || len(c.IPAddresses) != 1 {
		t.Errorf("SANs: %v %v", c.DNSNames, c.IPAddresses)
	}
	if n, err := NameOf(c); err != nil || n != (Name{"lab", "a"}) {
		t.Errorf("%v, %v", n, err)
	}
	c.URIs = nil // as from another PKI
	if n, err := NameOf(c); err != nil || n != (Name{"", "a"}) {
		t.Errorf("without a URI: %v, %v", n, err)
	}
	c.DNSNames = []string{"a", "b"}
	if n, err := NameOf(c); err == nil {
		t.Errorf("two nodes were taken for %s", n)
	}
	c.DNSNames = []string{"A_b"}
	if n, err := NameOf(c); err == nil {
		t.Errorf("a bad name was taken: %s", n)
	}
	if _, err := PeerName(tls.ConnectionState{}); err == nil {
		t.Error("no certificate, and a name")
	}
}

func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(b)
	}
	return all
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// later makes sure that a change is visible in the file's time.
func later(t *testing.T, path string) {
	t.Helper()
	at := time.Now().Add(2 * time.Second)
	if err := os.Chtimes(path, at, at); err != nil {
		t.Fatal(err)
	}
}
