package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"github.com/holdfast-dr/holdfast/internal/config"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/recovery"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

const (
	configDefault = "/etc/holdfast/holdfast.yaml"
	socketDefault = "/run/holdfast/holdfast.sock"
)

// app is what verbs share.
type app struct {
	stdin    io.Reader // as given, for a process
	in       *bufio.Reader
	out, err io.Writer
	asks     bool // a person can be asked: stdin and stderr are terminals
	live     bool // stderr is a terminal: progress may be drawn
	now      func() time.Time
	started  bool // a verb runs: its arguments were right
	vaults   func(recovery.Options) (vaults, error)

	json   bool
	socket string
	config string
	node   string
}

func newApp(in io.Reader, out, errOut io.Writer) *app {
	return &app{
		stdin: in, in: bufio.NewReader(in), out: out, err: errOut, now: time.Now,
		asks: isTerminal(in) && isTerminal(errOut), live: isTerminal(errOut), vaults: openVaults,
	}
}

func (a *app) flags(f *pflag.FlagSet) {
	f.BoolVar(&a.json, "json", false, "print the result as JSON")
	f.StringVar(&a.socket, "socket", "", "`path` of the daemon's socket (HOLDFAST_SOCKET; default: as in the fleet file)")
	f.StringVar(&a.config, "config", "", "`path` of the fleet file (HOLDFAST_CONFIG; default: "+configDefault+")")
	f.StringVar(&a.node, "node", "", "`name` of the node of this host (HOLDFAST_NODE)")
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// configPath is where the fleet file is, and whether somebody said so.
func (a *app) configPath() (path string, said bool) {
	if p := cmp.Or(a.config, os.Getenv("HOLDFAST_CONFIG")); p != "" {
		return p, true
	}
	return configDefault, false
}

// nodeName is which node this host is; empty when nobody said so.
func (a *app) nodeName() topology.Node {
	return topology.Node(cmp.Or(a.node, os.Getenv("HOLDFAST_NODE")))
}

// client returns a client for the daemon on this host.
func (a *app) client() (*httpapi.Client, error) {
	path, err := a.socketPath()
	if err != nil {
		return nil, err
	}
	return httpapi.Dial(path), nil
}

// socketPath takes what was said, else what the fleet file says about this
// node. A fleet file that nobody named may be missing or wrong: status must
// work on such a host too.
func (a *app) socketPath() (string, error) {
	if s := cmp.Or(a.socket, os.Getenv("HOLDFAST_SOCKET")); s != "" {
		return s, nil
	}
	path, said := a.configPath()
	fleet, err := config.Load(path)
	if err != nil {
		if said {
			return "", err
		}
		return socketDefault, nil
	}
	if name := a.nodeName(); name != "" {
		n, err := fleet.Node(name)
		if err != nil {
			return "", usage{err.Error()}
		}
		return n.Socket, nil
	}
	one := ""
	for _, n := range fleet.Nodes {
		if one != "" && n.Socket != one {
			return "", usage{fmt.Sprintf("the nodes in %s have different sockets; say which node this host is: --node or HOLDFAST_NODE", path)}
		}
		one = n.Socket
	}
	return cmp.Or(one, socketDefault), nil
}

// show prints a result: as JSON when asked to, else as text.
func (a *app) show(v any, text func() string) error {
	if !a.json {
		_, err := io.WriteString(a.out, text())
		return err
	}
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// say prints what is not a result.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.err, format+"\n", args...) }

// ask lets a person type a name. Anything but that very name is a no, and so
// is an interrupt: the read is left behind, the process is about to end.
func (a *app) ask(ctx context.Context, question, name string) (bool, error) {
	fmt.Fprintf(a.err, "%s: ", question)
	type answer struct {
		line string
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		line, err := a.in.ReadString('\n')
		got <- answer{line, err}
	}()
	select {
	case g := <-got:
		if g.err != nil && !errors.Is(g.err, io.EOF) {
			return false, fmt.Errorf("read the answer: %w", g.err)
		}
		return strings.TrimSpace(g.line) == name, nil
	case <-ctx.Done():
		a.say("")
		return false, nil
	}
}

// group is a verb that only has verbs below it.
func group(use, short string, below ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef(c, "unknown command %q for %q", args[0], c.CommandPath())
			}
			return usagef(c, "say what: %s", strings.Join(namesBelow(c), ", "))
		},
	}
	c.AddCommand(below...)
	return c
}

// wants checks how many arguments there are, and says where the help is.
func wants(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usagef(c, "say which: %s", c.UseLine())
		case len(args) > most:
			return usagef(c, "%q is one too many: %s", args[most], c.UseLine())
		}
		return nil
	}
}

func namesBelow(c *cobra.Command) []string {
	var out []string
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			out = append(out, sub.Name())
		}
	}
	return out
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
