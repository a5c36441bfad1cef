// Command testrun runs one kind of test for the Makefile and sums up what ran.
//
//	testrun -kind unit -- go test -json ./...     runs, keeps the result
//	testrun -kind lint -- golangci-lint run       the same for what is no test
//	testrun -report lint unit                     prints the table; these must have run
//
// The promise: it exits with a failure when the command fails, when a test
// fails, and when a kind that should hold tests ran none; it prints the output
// of failed tests and nothing of the others; every skipped test is named with
// its reason, and with CI=true a skip for want of a tool is a failure of the
// test that skips, not of this program. Results lie in build/test/KIND.json.
//
// Files:
//
//	main.go     flags, running, exit codes
//	events.go   reads the stream of go test -json into a Result
//	report.go   prints Results
package main
