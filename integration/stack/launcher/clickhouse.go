package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/ebitengine/purego"
)

// result is the library's struct local_result_v2. The buffer and the figures of
// the query come first, eight bytes each; only the error at its end is read.
type result struct {
	_   [6]uint64
	err *byte
}

// serveClickHouse serves the engine on the ports that args name until SIGTERM
// or SIGINT, then shuts it down in order and exits.
//
// The engine listens only as long as the query that told it to listen has a
// successor running. That successor reads the engine's stdin, a pipe that we
// hold: it costs nothing, has no time limit, and closing the pipe ends it.
func serveClickHouse(library string, args []string) {
	var hold [2]int
	check("make a pipe", syscall.Pipe2(hold[:], syscall.O_CLOEXEC))
	check("give the engine its stdin", syscall.Dup3(hold[0], 0, 0))
	lib, err := purego.Dlopen(library, purego.RTLD_NOW|purego.RTLD_LOCAL)
	check("load "+library, err)

	var handleSignals func(int32)
	var connect func(int32, **byte) uintptr
	var disconnect func(uintptr)
	var run func(int32, **byte) *result
	purego.RegisterLibFunc(&handleSignals, lib, "chdb_set_signal_handlers_enabled")
	purego.RegisterLibFunc(&connect, lib, "chdb_connect")
	purego.RegisterLibFunc(&disconnect, lib, "chdb_close_conn")
	purego.RegisterLibFunc(&run, lib, "query_stable_v2")

	handleSignals(0)
	// One connection, opened and closed, sets up the thread pools that BACKUP
	// and RESTORE need.
	one := argv("clickhouse")
	if c := connect(1, &one[0]); c != 0 {
		disconnect(c)
	}

	stop := make(chan os.Signal, 2)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-stop
		_ = syscall.Close(hold[1])
	}()

	all := append([]string{"clickhouse"}, args...)
	all = append(all,
		"--query", "SYSTEM START LISTEN QUERIES ALL",
		"--query", "SELECT l FROM file('stdin', 'LineAsString', 'l String') FORMAT Null")
	argp := argv(all...)
	r := run(int32(len(all)), &argp[0])
	runtime.KeepAlive(argp)
	if r != nil && r.err != nil {
		fmt.Fprintln(os.Stderr, "launcher: clickhouse:", text(r.err))
		syscall.Exit(1)
	}
	syscall.Exit(0) // not through the library's own exit handlers
}

// argv makes a C argument vector; the null at its end counts.
func argv(a ...string) []*byte {
	p := make([]*byte, len(a)+1)
	for i, s := range a {
		p[i] = &append([]byte(s), 0)[0]
	}
	return p
}

// text copies a C string.
func text(p *byte) string {
	var b []byte
	for ; p != nil && *p != 0; p = (*byte)(unsafe.Add(unsafe.Pointer(p), 1)) {
		b = append(b, *p)
	}
	return string(b)
}
