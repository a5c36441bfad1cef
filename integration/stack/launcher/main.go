package main

import (
	"fmt"
	"os"
	"runtime"
)

// The parent-death signal of a child belongs to the thread that made it. With
// the main goroutine tied to the first thread, that thread lives as long as we
// do.
func init() { runtime.LockOSThread() }

func main() {
	if len(os.Args) < 3 {
		usage()
	}
	switch os.Args[1] {
	case "hold":
		os.Exit(hold(os.Args[2:]))
	case "clickhouse":
		if len(os.Args) < 5 {
			usage()
		}
		check("listen on "+os.Args[3], relay(os.Args[3], os.Args[4]))
		serveClickHouse(os.Args[2], os.Args[5:])
	default:
		usage()
	}
}

func usage() {
	fmt.Fprintln(os.Stderr, "usage: launcher hold [-as UID [-reach]] PROGRAM ARGS... | launcher clickhouse LIB PUBLIC INNER ARGS...")
	os.Exit(2)
}

func check(act string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "launcher: %s: %v\n", act, err)
		os.Exit(2)
	}
}
