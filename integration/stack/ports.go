package stack

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// Ports are taken from below the kernel's own range for outgoing connections
// (32768 and up). A port inside that range can be taken by a stranger's
// connection while our server is down, and a client that dials it again and
// again can even connect to itself.
const (
	portMin = 12000
	portMax = 32000
)

// reserved holds a lock per handed-out port, so that two rigs on one machine
// do not choose the same one while neither listens. The lock is an abstract
// unix socket: it leaves no file and goes with the process.
var reserved = struct {
	sync.Mutex
	lock map[int]net.Listener
}{lock: map[int]net.Listener{}}

// FreePort returns a loopback port that nothing listens on and that no other
// rig on this machine is given until ReleasePort, or until this process ends.
func FreePort() (int, error) {
	reserved.Lock()
	defer reserved.Unlock()
	for range 200 {
		port := portMin + rand.IntN(portMax-portMin)
		lock, err := net.Listen("unix", fmt.Sprintf("@holdfast-stack/port/%d", port))
		if err != nil {
			continue // somebody else's
		}
		if portIsFree(port) != nil {
			_ = lock.Close()
			continue
		}
		reserved.lock[port] = lock
		return port, nil
	}
	return 0, errors.New("find a free loopback port: 200 tries between 12000 and 32000 were all taken; is another rig running away?")
}

func portIsFree(port int) error {
	probe, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return fmt.Errorf("port %d is in use: %w; choose another, or 0 for a free one (ss -ltnp shows who has it)", port, err)
	}
	return probe.Close()
}

// portStaysFree looks again for a moment before it says no. A process that is
// being started beside us holds copies of all our sockets between its fork and
// its exec, so a port that was only looked at can be in use for an instant.
func portStaysFree(port int) error {
	err := portIsFree(port)
	for range 20 {
		if err == nil {
			return nil
		}
		time.Sleep(25 * time.Millisecond)
		err = portIsFree(port)
	}
	return err
}

// ReleasePort gives a port of FreePort back. Unknown ports are ignored.
func ReleasePort(port int) {
	reserved.Lock()
	defer reserved.Unlock()
	if lock := reserved.lock[port]; lock != nil {
		_ = lock.Close()
		delete(reserved.lock, port)
	}
}
