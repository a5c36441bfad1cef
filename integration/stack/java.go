package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// javaSet is a set of jars and what runs them.
type javaSet struct {
	pin                  kafkaPin
	java, libs, launcher string
}

// installJava brings a set of jars, and what it needs to run, onto this
// machine.
func installJava(ctx context.Context, progress io.Writer, pin kafkaPin) (javaSet, error) {
	s := javaSet{pin: pin}
	var err error
	if s.java, err = need(ctx, progress, "java"); err != nil {
		return s, err
	}
	if s.libs, err = install(ctx, progress, pin.set(), func(dir string) error {
		return fetchMaven(ctx, progress, pin, dir)
	}); err != nil {
		return s, err
	}
	s.launcher, err = installLauncher(ctx, progress)
	return s, err
}

// classes are the options of a JVM that has the set's classes and writes its
// log to standard output, set up by a file in dir.
func (s javaSet) classes(dir string) ([]string, error) {
	return s.logged(dir, "info", "System.out", "SYSTEM_OUT")
}

func (s javaSet) logged(dir, level, stream, stream2 string) ([]string, error) {
	path := filepath.Join(dir, "log4j.properties")
	option, words := "-Dlog4j.configuration=file:"+path, fmt.Sprintf(`log4j.rootLogger=%s, out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.target=%s
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=%%d %%p %%c{1}: %%m%%n
`, strings.ToUpper(level), stream)
	if s.pin.logging == log4j2 {
		option, words = "-Dlog4j2.configurationFile="+path, fmt.Sprintf(`status=error
appender.out.type=Console
appender.out.name=out
appender.out.target=%s
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=%%d %%p %%c{1}: %%m%%n
rootLogger.level=%s
rootLogger.appenderRef.out.ref=out
`, stream2, level)
	}
	if err := os.WriteFile(path, []byte(words), 0o644); err != nil {
		return nil, fmt.Errorf("write the configuration of the log: %w", err)
	}
	return []string{option, "-cp", filepath.Join(s.libs, "*")}, nil
}

// JavaTool runs a main class of this broker's own version to its end, or to
// that of ctx, and returns what it printed on standard output, also when it
// failed. Kafka's own consumers and tools are in kafka.tools and kafka.admin up
// to 3.x: kafka.tools.ConsoleConsumer of 3.6.2 reads from any version.
func (k *Kafka) JavaTool(ctx context.Context, class string, args ...string) (string, error) {
	return k.set.tool(ctx, class, args...)
}

// JavaTool is Kafka.JavaTool for any pinned version ("3.6.2"), with no broker
// of it at work.
func JavaTool(ctx context.Context, version, class string, args ...string) (string, error) {
	pin, err := findKafka(version)
	if err != nil {
		return "", err
	}
	set, err := installJava(ctx, nil, pin)
	if err != nil {
		return "", fmt.Errorf("run %s: %w", class, err)
	}
	return set.tool(ctx, class, args...)
}

func (s javaSet) tool(ctx context.Context, class string, args ...string) (out string, err error) {
	dir, err := os.MkdirTemp("", "holdfast-tool-*")
	if err != nil {
		return "", fmt.Errorf("run %s: %w", class, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	classes, err := s.logged(dir, "warn", "System.err", "SYSTEM_ERR")
	if err != nil {
		return "", fmt.Errorf("run %s: %w", class, err)
	}
	c := command{
		launcher: s.launcher, program: s.java, dir: dir,
		args: slices.Concat([]string{"-Xmx192m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData"}, classes, []string{class}, args),
		out:  filepath.Join(dir, "out"), log: filepath.Join(dir, "err"),
	}
	p, err := startProcess(c)
	if err != nil {
		return "", fmt.Errorf("run %s: %w", class, err)
	}
	select {
	case <-p.done:
		err = p.err
		_ = p.lifeline.Close()
	case <-ctx.Done():
		err = errors.Join(ctx.Err(), p.kill())
	}
	printed, readErr := os.ReadFile(c.out)
	if err = errors.Join(err, readErr); err != nil {
		said, _ := os.ReadFile(c.log)
		return string(printed), fmt.Errorf("run %s: %w\n%s", class, err, tail(said, 4000))
	}
	return string(printed), nil
}
