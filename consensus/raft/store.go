package raft

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	hraft "github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// store is raft's log and its few durable facts (term, vote), in one bbolt
// file. A write that fails halts the node: raft's own answer to a term that
// cannot be saved is a panic, which would take the whole daemon down when all
// that happened is a full disk.
type store struct {
	*raftboltdb.BoltStore
	dir   string
	halt  func(error)
	fault func(op string) error // nil but in tests
	armed atomic.Bool           // raft runs: halt instead of returning from term writes
}

var (
	_ hraft.LogStore          = (*store)(nil)
	_ hraft.StableStore       = (*store)(nil)
	_ hraft.MonotonicLogStore = (*store)(nil)
)

func openStore(dir string, halt func(error), fault func(string) error) (*store, error) {
	path := filepath.Join(dir, "raft.db")
	b, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: &bbolt.Options{Timeout: time.Second}})
	if err != nil {
		if errors.Is(err, bbolt.ErrInvalid) || errors.Is(err, bbolt.ErrChecksum) || errors.Is(err, bbolt.ErrVersionMismatch) {
			return nil, fmt.Errorf("open the raft log %s: %w: the file is damaged; if the other members are well, move the data folder away and let this node join anew", path, err)
		}
		return nil, explainDisk(dir, fmt.Errorf("open the raft log %s: %w", path, err))
	}
	s := &store{BoltStore: b, dir: dir, halt: halt, fault: fault}
	// One write now, so that a full disk is an error of Open with a name.
	if err := s.write("open", func() error { return b.Set([]byte("holdfast/opened"), []byte{1}) }); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return s, nil
}

func (s *store) write(op string, do func() error) error {
	var err error
	if s.fault != nil {
		err = s.fault(op)
	}
	if err == nil {
		err = do()
	}
	if err != nil {
		return explainDisk(s.dir, fmt.Errorf("write the raft log (%s): %w", op, err))
	}
	return nil
}

// IsMonotonic implements hraft.MonotonicLogStore: bbolt takes gaps.
func (s *store) IsMonotonic() bool { return false }

// StoreLog implements hraft.LogStore.
func (s *store) StoreLog(l *hraft.Log) error { return s.StoreLogs([]*hraft.Log{l}) }

// StoreLogs implements hraft.LogStore. Raft handles its error: a leader steps
// down, a follower does not acknowledge. The node halts besides, because a
// member that cannot write only looks like one.
func (s *store) StoreLogs(l []*hraft.Log) error {
	err := s.write("append", func() error { return s.BoltStore.StoreLogs(l) })
	if err != nil && s.armed.Load() {
		s.halt(err)
	}
	return err
}

// DeleteRange implements hraft.LogStore.
func (s *store) DeleteRange(from, to uint64) error {
	return s.write("trim", func() error { return s.BoltStore.DeleteRange(from, to) })
}

// Set implements hraft.StableStore.
func (s *store) Set(k, v []byte) error {
	return s.fact(s.write("vote", func() error { return s.BoltStore.Set(k, v) }))
}

// SetUint64 implements hraft.StableStore.
func (s *store) SetUint64(k []byte, v uint64) error {
	return s.fact(s.write("term", func() error { return s.BoltStore.SetUint64(k, v) }))
}

// fact handles a failed write of a durable fact. Raft would panic on the
// error, so while it runs its goroutine ends here instead: runtime.Goexit
// runs the deferred calls by which raft counts its goroutines and gives up
// leadership, and halt then shuts the rest down. Raft must not go on, since
// it would act on a term or a vote that a restart forgets.
func (s *store) fact(err error) error {
	if err == nil || !s.armed.Load() {
		return err
	}
	s.halt(err)
	runtime.Goexit()
	return nil
}
