package httpapi

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/user"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// HeaderFor carries the name of the person behind a shared account, such as
// the user who called sudo. It is a claim, and is recorded as one.
const HeaderFor = "Holdfast-For"

type operatorKey struct{}

// operator is who is at the other end of a connection.
type operator struct {
	uid   uint32
	known bool
	on    string // behalf of whom, as claimed
}

// withPeer notes the peer credentials of a connection, for http.Server.ConnContext.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || credErr != nil {
		return ctx
	}
	return context.WithValue(ctx, operatorKey{}, operator{uid: cred.Uid, known: true})
}

// withClaim adds the claim of a request to what is known about its connection.
func withClaim(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name := claim(r.Header.Get(HeaderFor)); name != "" {
			o, _ := r.Context().Value(operatorKey{}).(operator)
			o.on = name
			r = r.WithContext(context.WithValue(r.Context(), operatorKey{}, o))
		}
		next.ServeHTTP(w, r)
	})
}

// claim keeps what a user name is made of, so that nobody writes lines into
// the audit log.
func claim(s string) string {
	s = s[:min(len(s), 64)]
	return strings.Map(func(r rune) rune {
		if r > ' ' && r < 0x7f && r != '"' {
			return r
		}
		return -1
	}, s)
}

// by is who asks, as it goes into the audit log.
func (s *server) by(ctx context.Context) string {
	o, _ := ctx.Value(operatorKey{}).(operator)
	name := "unknown"
	if o.known {
		name = "uid " + strconv.FormatUint(uint64(o.uid), 10)
		if u, err := user.LookupId(strconv.FormatUint(uint64(o.uid), 10)); err == nil {
			name = u.Username
		}
	}
	out := fmt.Sprintf("operator %s@%s", name, s.node)
	if o.on != "" && o.on != name {
		out += " for " + o.on
	}
	return out
}
