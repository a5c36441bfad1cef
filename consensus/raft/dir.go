package raft

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// freeBytesMin is what must be free on the data folder's disk to start. The
// log and two snapshots of a state under 10 MB fit well.
const freeBytesMin = 64 << 20

// openDir makes the data folder ready and takes its lock. The lock dies with
// the process, whatever kills it.
func openDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, explainDisk(dir, fmt.Errorf("create the data folder %s: %w", dir, err))
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, explainDisk(dir, fmt.Errorf("close the data folder %s to others: %w", dir, err))
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, explainDisk(dir, fmt.Errorf("ask for the free space of %s: %w", dir, err))
	}
	if free := int64(st.Bavail) * st.Bsize; free < freeBytesMin {
		return nil, fmt.Errorf("the disk of the data folder %s is full: %d MB are free, %d MB are needed; make room there, or point the data folder elsewhere", dir, free>>20, int64(freeBytesMin)>>20)
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, explainDisk(dir, fmt.Errorf("open the lock of the data folder: %w", err))
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer func() { _ = f.Close() }()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("the data folder %s is in use by another daemon (%s): stop that one first, or give this one its own folder", dir, owner(f))
		}
		return nil, fmt.Errorf("lock %s: %w (does this file system know locks?)", path, err)
	}
	if err := writeOwner(f); err != nil {
		_ = f.Close()
		return nil, explainDisk(dir, fmt.Errorf("write %s: %w", path, err))
	}
	return f, nil
}

func writeOwner(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func owner(f *os.File) string {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 32))
	if pid := strings.TrimSpace(string(b)); err == nil && pid != "" {
		return "pid " + pid
	}
	return "its pid is not known"
}

// explainDisk adds what to do to an error of the disk.
func explainDisk(dir string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		hint = "the disk is full or a quota is reached: make room on the disk of " + dir
	case errors.Is(err, fs.ErrPermission):
		hint = "let the user that runs holdfast own " + dir + " (chown -R)"
	case errors.Is(err, syscall.EROFS):
		hint = "the file system is read-only: the kernel log says why; it is often a failing disk"
	case errors.Is(err, syscall.EIO):
		hint = "the disk is failing: the kernel log says more"
	default:
		return err
	}
	return fmt.Errorf("%w; %s", err, hint)
}
