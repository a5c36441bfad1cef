package repository

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/holdfast-dr/holdfast/internal/objects"
)

// memory is a store in memory. Faults are values: see fault.
type memory struct {
	mu      sync.Mutex
	objects map[string][]byte
	plain   bool // it does not honour conditional puts
	clock   time.Time
	faults  []*fault
	calls   int
	crashAt int // from this call on nothing works; 0: never
	reads   map[string]int
}

// fault fails the nth call of an operation on a key with this ending.
type fault struct {
	op, ending string
	nth        int
	lose       bool // the call works and its answer is lost
	err        error
	seen       int
}

var errCrash = fmt.Errorf("the process is gone: %w", objects.ErrUnreachable)

func newMemory() *memory {
	return &memory{objects: map[string][]byte{}, reads: map[string]int{}, clock: time.Date(2026, 8, 17, 12, 0, 0, 0, time.UTC)}
}

func (m *memory) String() string { return "s3://memory" }

// call counts, and says whether the call fails before or after its work.
func (m *memory) call(ctx context.Context, op, key string) (before, after error) {
	m.calls++
	if ctx.Err() != nil {
		return context.Cause(ctx), nil
	}
	if m.crashAt > 0 && m.calls >= m.crashAt {
		return errCrash, nil
	}
	for _, f := range m.faults {
		if f.op != op || !strings.HasSuffix(key, f.ending) {
			continue
		}
		if f.seen++; f.seen != max(f.nth, 1) {
			continue
		}
		if f.lose {
			return nil, f.err
		}
		return f.err, nil
	}
	return nil, nil
}

func (m *memory) Put(ctx context.Context, key string, body []byte, o objects.PutOptions) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, after := m.call(ctx, "put", key)
	if before != nil {
		return before
	}
	if _, there := m.objects[key]; there && o.IfAbsent {
		return fmt.Errorf("put %s: %w", key, objects.ErrExists)
	}
	m.objects[key] = bytes.Clone(body)
	return after
}

func (m *memory) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, _ := m.call(ctx, "get", key)
	if before != nil {
		return nil, before
	}
	m.reads[key]++
	body, there := m.objects[key]
	switch {
	case !there:
		return nil, fmt.Errorf("get %s: %w", key, objects.ErrNotFound)
	case int64(len(body)) > limit:
		return nil, fmt.Errorf("get %s: %w", key, objects.ErrTooLarge)
	}
	return bytes.Clone(body), nil
}

func (m *memory) Open(ctx context.Context, key string) (io.ReadCloser, objects.Info, error) {
	body, err := m.Get(ctx, key, 1<<40)
	return io.NopCloser(bytes.NewReader(body)), objects.Info{Bytes: int64(len(body))}, err
}

func (m *memory) Head(ctx context.Context, key string) (objects.Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, _ := m.call(ctx, "head", key)
	if before != nil {
		return objects.Info{}, before
	}
	body, there := m.objects[key]
	if !there {
		return objects.Info{}, fmt.Errorf("look at %s: %w", key, objects.ErrNotFound)
	}
	return objects.Info{Bytes: int64(len(body)), Modified: m.clock}, nil
}

func (m *memory) List(ctx context.Context, prefix, after string, limit int) ([]objects.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, _ := m.call(ctx, "list", prefix)
	if before != nil {
		return nil, before
	}
	var all []objects.Object
	for key, body := range m.objects {
		if strings.HasPrefix(key, prefix) && key > after {
			all = append(all, objects.Object{Key: key, Bytes: int64(len(body)), Modified: m.clock})
		}
	}
	slices.SortFunc(all, func(a, b objects.Object) int { return strings.Compare(a.Key, b.Key) })
	if len(all) > limit {
		return nil, objects.ErrTooLarge
	}
	return all, nil
}

func (m *memory) Now(ctx context.Context) (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, _ := m.call(ctx, "now", "")
	return m.clock, before
}

func (m *memory) Probe(ctx context.Context) (objects.Dialect, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, _ := m.call(ctx, "probe", "")
	return objects.Dialect{ConditionalPut: !m.plain}, before
}

// keys lists what is there below a prefix.
func (m *memory) keys(prefix string) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var keys []string
	for key := range m.objects {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func (m *memory) set(key string, body []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[key] = body
}

func (m *memory) get(key string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return bytes.Clone(m.objects[key])
}

func (m *memory) remove(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
}

var errOnPurpose = errors.New("on purpose")
