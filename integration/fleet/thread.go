package fleet

import "runtime"

// thread starts children for ever, on one locked thread.
func thread() {
	runtime.LockOSThread()
	for start := range starts {
		start()
	}
}
