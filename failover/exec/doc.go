// Package exec is the driver that runs the operator's commands as steps of a
// failover: stop this region's workloads, start them, try one event.
//
// # Words
//
// A hook is a command with arguments, for one role, with a timeout. A step of
// kind exec.stop, exec.start or exec.canary has one hook, or several that run
// in order; its spec is one of
//
//	{"argv": ["/etc/holdfast/stop-consumers"], "timeout": "30s", "role": "ingestion"}
//	[{...}, {...}]
//
// # What a hook may rely on
//
//   - It is started in "/", with nothing on its standard input, as the leader
//     of a process group of its own, and with this environment and no more:
//     PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin, HOME
//     (the daemon's), LANG=C.UTF-8, HOLDFAST_ROLE, HOLDFAST_REGION (where it
//     runs), HOLDFAST_EPOCH (of the role), HOLDFAST_GENERATION, HOLDFAST_PLAN,
//     HOLDFAST_STEP (from 1), HOLDFAST_UNDO (from 1; 0 if it is not an undo),
//     HOLDFAST_ATTEMPT, and HOLDFAST_HOOK, a random value by which its
//     processes are found again. Secrets of the daemon are not passed on.
//   - Exit code 0 is success, anything else is failure.
//   - No two hooks of one role run at once, not even when the daemon was
//     killed meanwhile: what is left of a former one is ended first.
//
// # What a hook must do
//
//   - Be idempotent: after a crash, a timeout or a failure it runs again from
//     the start. That it succeeded is written down right after its exit, but a
//     power cut may come first.
//   - End on TERM. KILL follows after a grace (10 s).
//   - Return when its work is done. What it leaves running in the background
//     after exit 0 is left alone, loses its output, and must not write there:
//     use the service manager, or redirect. After any other end the whole
//     group, and whatever carries HOLDFAST_HOOK, is ended.
//
// # What is kept
//
// In the folder given, of mode 0700:
//
//	PLAN-STEP-ATTEMPT.log      the last 64 KiB of its output (…-N.log for hook N of several)
//	PLAN-STEP.done.json        which hooks of the step succeeded on this boot
//	ROLE-KIND.pid              the hook that runs now
//
// The newest 256 logs and records are kept.
//
// # Files
//
//	driver.go   Driver and its runners
//	hook.go     one hook: start, bound, end
//	spec.go     the spec of a step
//	record.go   done.json, the pid file, and what a killed daemon left
//	output.go   the bounded log
package exec
