package raft

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	hraft "github.com/hashicorp/raft"

	"github.com/holdfast-dr/holdfast/consensus"
)

// machine turns raft's committed entries into consensus.State. Raft calls
// Apply, Snapshot and Restore from one goroutine; everyone may read.
type machine struct {
	now     atomic.Pointer[applied]
	stopped atomic.Bool // an entry was not understood: change nothing any more
	reason  error       // why; set before stopped
	halt    func(error)

	mu       sync.Mutex
	watchers map[chan struct{}]struct{}
	advanced chan struct{} // closed and replaced with each change
}

// applied is a state and the index of the last command in it.
type applied struct {
	state consensus.State
	index consensus.Index
}

// result is what Apply returns through raft to the proposer.
type result struct{ err error }

var _ hraft.FSM = (*machine)(nil)

func newMachine(halt func(error)) *machine {
	m := &machine{halt: halt, watchers: map[chan struct{}]struct{}{}, advanced: make(chan struct{})}
	m.now.Store(&applied{state: consensus.NewState()})
	return m
}

// Apply implements hraft.FSM. Raft counts an entry as applied whatever
// happens here, so after a halt nothing is applied and no snapshot is given:
// the entry is met again at the next start.
func (m *machine) Apply(l *hraft.Log) any {
	if m.stopped.Load() {
		return result{m.reason}
	}
	next, err := m.step(l.Data)
	var refusal *consensus.Refusal
	if err != nil && !errors.As(err, &refusal) {
		err = m.stop(fmt.Errorf("log entry %d: %w", l.Index, err))
		return result{err}
	}
	m.set(next, consensus.Index(l.Index))
	return result{err}
}

func (m *machine) step(entry []byte) (next consensus.State, err error) {
	// A panic would be a bug in the rules, and the same one on every member.
	// Halting keeps the daemon up, so that what holds its role goes on.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("apply it: panic: %v", p)
		}
	}()
	c, err := consensus.DecodeCommand(entry)
	if err != nil {
		return consensus.State{}, err
	}
	return m.now.Load().state.Apply(c)
}

func (m *machine) stop(err error) error {
	if errors.Is(err, consensus.ErrUnknownCommand) {
		err = fmt.Errorf("this node stopped taking part: %w (the data is safe; start a newer holdfast on the same data folder)", err)
	} else {
		err = fmt.Errorf("this node stopped taking part: %w (the data is safe; keep the data folder and report it)", err)
	}
	m.reason = err
	m.stopped.Store(true)
	m.halt(err)
	return err
}

func (m *machine) set(s consensus.State, at consensus.Index) {
	m.now.Store(&applied{state: s, index: at})
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.advanced)
	m.advanced = make(chan struct{})
	for w := range m.watchers {
		select {
		case w <- struct{}{}:
		default: // it has not looked since the last change: one notice is enough
		}
	}
}

// reached returns a channel that is closed at the next change, and whether
// index is applied already.
func (m *machine) reached(index consensus.Index) (next <-chan struct{}, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.advanced, m.now.Load().index >= index
}

func (m *machine) watch() chan struct{} {
	w := make(chan struct{}, 1)
	w <- struct{}{}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watchers[w] = struct{}{}
	return w
}

func (m *machine) unwatch(w chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.watchers, w)
}

// A snapshot is one JSON object. Its format number is of this wrapping; the
// state inside has its own version.
const snapshotFormat = 1

// snapshotBytesMax bounds what Restore reads. The state is small (< 10 MB).
const snapshotBytesMax = 256 << 20

type snapshot struct {
	Format int             `json:"format"`
	Index  consensus.Index `json:"index"`
	State  json.RawMessage `json:"state"`
}

// Snapshot implements hraft.FSM.
func (m *machine) Snapshot() (hraft.FSMSnapshot, error) {
	if m.stopped.Load() {
		return nil, m.reason
	}
	return &frozen{m.now.Load()}, nil
}

// frozen is a state to be written out. States never change, so it needs no copy.
type frozen struct{ *applied }

// Persist implements hraft.FSMSnapshot.
func (f *frozen) Persist(sink hraft.SnapshotSink) error {
	b, err := encodeSnapshot(f.applied)
	if err == nil {
		_, err = sink.Write(b)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write snapshot: %w", err), sink.Cancel())
	}
	return sink.Close()
}

// Release implements hraft.FSMSnapshot.
func (*frozen) Release() {}

// Restore implements hraft.FSM.
func (m *machine) Restore(r io.ReadCloser) error {
	defer func() { _ = r.Close() }()
	a, err := decodeSnapshot(r)
	if err != nil {
		return m.stop(fmt.Errorf("snapshot: %w", err))
	}
	m.set(a.state, a.index)
	return nil
}

func encodeSnapshot(a *applied) ([]byte, error) {
	state, err := consensus.EncodeState(a.state)
	if err != nil {
		return nil, fmt.Errorf("encode state: %w", err)
	}
	return json.Marshal(snapshot{Format: snapshotFormat, Index: a.index, State: state})
}

func decodeSnapshot(r io.Reader) (*applied, error) {
	b, err := io.ReadAll(io.LimitReader(r, snapshotBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if len(b) > snapshotBytesMax {
		return nil, fmt.Errorf("read: larger than %d MB", snapshotBytesMax>>20)
	}
	var s snapshot
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return nil, fmt.Errorf("decode: %w: %w", err, consensus.ErrUnknownCommand)
	}
	if s.Format != snapshotFormat {
		return nil, fmt.Errorf("format %d, this binary knows %d: %w", s.Format, snapshotFormat, consensus.ErrUnknownCommand)
	}
	state, err := consensus.DecodeState(s.State)
	if err != nil {
		return nil, err
	}
	return &applied{state: state, index: s.Index}, nil
}
