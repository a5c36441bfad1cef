package main

import (
	"io"
	"net"
	"time"
)

// relayPatience bounds how long the engine may take to notice that a client
// has gone.
const relayPatience = time.Minute

// relay serves the engine's native port to clients. The engine as a library
// ends its whole process when a client resets a connection at the wrong
// moment, which killed clients and cut lines do all the time; a server does
// not. So the engine never sees a reset: what ends badly on the client's side
// ends in order on its own.
func relay(public, inner string) error {
	l, err := net.Listen("tcp", public)
	if err != nil {
		return err
	}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return // the process ends
			}
			go carry(client.(*net.TCPConn), inner)
		}
	}()
	return nil
}

func carry(client *net.TCPConn, inner string) {
	defer func() { _ = client.Close() }() // whatever it still wanted, its peer is gone
	conn, err := net.Dial("tcp", inner)
	if err != nil {
		return // the engine is not up yet, or no longer
	}
	engine := conn.(*net.TCPConn)
	defer func() { _ = engine.Close() }()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(client, engine)
		_ = client.CloseWrite()
		_, _ = io.Copy(io.Discard, engine) // closing with bytes unread would be a reset
	}()
	_, _ = io.Copy(engine, client)
	_ = engine.CloseWrite()
	_ = engine.SetReadDeadline(time.Now().Add(relayPatience))
	<-done
}
