package exec

import (
	"fmt"
	"os"
	"strings"
	"sync"
)

const (
	outputKept   = 64 << 10 // bytes of output kept in the log
	evidenceTail = 4 << 10  // and of those in the journal
)

// output is a file that keeps the end of what is written to it. It holds at
// most twice outputKept while it grows. A disk that takes no more does not
// stop the hook.
type output struct {
	mu    sync.Mutex
	path  string
	f     *os.File
	tail  []byte // what the file holds
	total int64
	err   error // the first of the file
}

func newOutput(path string) (*output, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("keep the output of a hook: %w", err)
	}
	return &output{path: path, f: f}, nil
}

// Write implements io.Writer. It always takes all of b.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.total += int64(len(b))
	o.tail = append(o.tail, b...)
	if len(o.tail) > 2*outputKept {
		o.tail = append([]byte(nil), o.tail[len(o.tail)-outputKept:]...)
		o.rewrite(o.tail)
	} else if o.err == nil {
		_, o.err = o.f.Write(b)
	}
	return len(b), nil
}

func (o *output) rewrite(b []byte) {
	if o.err == nil {
		o.err = o.f.Truncate(0)
	}
	if o.err == nil {
		_, o.err = o.f.Seek(0, 0)
	}
	if o.err == nil {
		_, o.err = o.f.Write(b)
	}
}

// Close cuts the file to its bound. The error is that of the file.
func (o *output) Close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if over := len(o.tail) - outputKept; over > 0 {
		o.tail = o.tail[over:]
	}
	if lost := o.total - int64(len(o.tail)); lost > 0 {
		o.rewrite(append(fmt.Appendf(nil, "[holdfast: %d bytes before this were dropped]\n", lost), o.tail...))
	}
	if err := o.f.Close(); o.err == nil {
		o.err = err
	}
	return o.err
}

// last returns up to n bytes of the end, as text.
func (o *output) last(n int) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.ToValidUTF8(string(o.tail[max(0, len(o.tail)-n):]), "�")
}
