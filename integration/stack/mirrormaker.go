package stack

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// MirrorMakerOptions describes one MirrorMaker 2 in its dedicated mode.
type MirrorMakerOptions struct {
	Name string // default "mirrormaker"
	Dir  string // configuration; default a temporary folder
	Log  string // default NAME.log in Dir
	// Properties is the whole of its configuration: clusters, addresses,
	// topics, number of tasks.
	Properties map[string]string
	JVM        []string // come after ours and win

	Progress io.Writer // plain lines; nil: silence
}

// MirrorMaker is one process of MirrorMaker 2.
type MirrorMaker struct{ *service }

// StartMirrorMaker installs MirrorMaker 2 if needed and returns when it says
// that it has started. Its connectors begin some time later: wait for the
// first record in the target. Close it after use.
func StartMirrorMaker(ctx context.Context, o MirrorMakerOptions) (*MirrorMaker, error) {
	set, err := installJava(ctx, o.Progress, mirrorMaker)
	if err != nil {
		return nil, fmt.Errorf("run MirrorMaker: %w", err)
	}
	s, err := newService(cmp.Or(o.Name, "mirrormaker"), o.Dir, o.Log, o.Progress)
	if err != nil {
		return nil, err
	}
	m := &MirrorMaker{s}
	if err := m.prepare(o, set); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	if err := m.start(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// InstallMirrorMaker brings it onto this machine without running it.
func InstallMirrorMaker(ctx context.Context, progress io.Writer) error {
	if _, err := installJava(ctx, progress, mirrorMaker); err != nil {
		return fmt.Errorf("run MirrorMaker: %w", err)
	}
	return nil
}

func (m *MirrorMaker) prepare(o MirrorMakerOptions, set javaSet) error {
	properties := filepath.Join(m.dir, "mirrormaker.properties")
	if err := os.WriteFile(properties, writeProperties(o.Properties), 0o600); err != nil {
		return fmt.Errorf("write the configuration of %s: %w", m.name, err)
	}
	classes, err := set.classes(m.dir)
	if err != nil {
		return err
	}
	m.command = command{
		launcher: set.launcher, program: set.java, dir: m.dir, log: m.log,
		args: slices.Concat([]string{"-Xms64m", "-Xmx512m", "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"},
			o.JVM, classes, []string{"org.apache.kafka.connect.mirror.MirrorMaker", properties}),
	}
	m.ready = m.started
	return nil
}

// started looks for the words that end the start, behind our own that began it.
func (m *MirrorMaker) started(context.Context) error {
	log, err := os.ReadFile(m.log)
	if err != nil {
		return fmt.Errorf("read the log of %s: %w", m.name, err)
	}
	begun := bytes.LastIndex(log, []byte(" RIG start "))
	if begun < 0 || !bytes.Contains(log[begun:], []byte("Kafka MirrorMaker started")) {
		return errors.New("MirrorMaker has not said that it started")
	}
	return nil
}
