package stack

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// Links knows which place each address belongs to and which proxies lie
// between two places, and so can cut, slow or heal everything between them at
// once. A proxy made later takes the present state of its link.
//
// Every call names the way that bytes travel: Cut("us-east", "eu-west") lets
// nothing more arrive in eu-west from us-east, whoever opened the connection;
// what eu-west sends still arrives. CutBoth cuts both ways. It is safe for
// concurrent use.
type Links struct {
	mu      sync.Mutex
	proxies map[linkKey]*Proxy
	state   map[way]linkState
	places  map[string]string
	closed  bool
}

type way struct{ from, to string }

type linkKey struct {
	way
	target string
}

type linkState struct {
	delay, jitter time.Duration
	rate          int64
	cut           bool
}

// NewLinks makes an empty set: every link is healthy.
func NewLinks() *Links {
	return &Links{proxies: map[linkKey]*Proxy{}, state: map[way]linkState{}, places: map[string]string{}}
}

// Proxy is the proxy through which a client in from reaches target, a host:port
// in to. The same three make the same proxy.
func (l *Links) Proxy(from, to, target string) (*Proxy, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, fmt.Errorf("make a proxy from %s to %s: the links were closed", from, to)
	}
	key := linkKey{way{from, to}, target}
	if p := l.proxies[key]; p != nil {
		return p, nil
	}
	p, err := NewProxy(target)
	if err != nil {
		return nil, fmt.Errorf("link %s to %s: %w", from, to, err)
	}
	l.proxies[key] = p
	apply(p, Up, linkState{}, l.state[way{from, to}])
	apply(p, Down, linkState{}, l.state[way{to, from}])
	return p, nil
}

// Place says that addresses belong to a place, for Dial.
func (l *Links) Place(place string, addresses ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range addresses {
		l.places[a] = place
	}
}

// Dial makes a dialer for clients in from: an address of another place is
// reached through the proxy of that link, one of the same place directly. An
// address that no Place named is an error, so that no client goes round the
// links by mistake. It fits kgo.Dialer and net/http's DialContext.
func (l *Links) Dial(from string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		l.mu.Lock()
		to, known := l.places[address]
		l.mu.Unlock()
		if !known {
			return nil, fmt.Errorf("dial %s from %s: no place has this address; name it with Links.Place", address, from)
		}
		if to != from {
			p, err := l.Proxy(from, to, address)
			if err != nil {
				return nil, err
			}
			address = p.Address()
		}
		var d net.Dialer
		return d.DialContext(ctx, network, address)
	}
}

// SetDelay sets the one-way delay of everything that travels from one place to
// another; see Proxy.SetDelay.
func (l *Links) SetDelay(from, to string, delay, jitter time.Duration) {
	l.change(from, to, func(s *linkState) { s.delay, s.jitter = delay, jitter })
}

// SetRate sets the bytes per second that each proxy of the link lets through
// one way; 0 is without limit.
func (l *Links) SetRate(from, to string, bytesPerSecond int64) {
	l.change(from, to, func(s *linkState) { s.rate = bytesPerSecond })
}

// Cut makes one way a black hole; see Proxy.
func (l *Links) Cut(from, to string) { l.change(from, to, func(s *linkState) { s.cut = true }) }

// Heal ends the cut of one way.
func (l *Links) Heal(from, to string) { l.change(from, to, func(s *linkState) { s.cut = false }) }

// CutBoth cuts both ways between two places.
func (l *Links) CutBoth(a, b string) { l.Cut(a, b); l.Cut(b, a) }

// HealBoth heals both ways between two places.
func (l *Links) HealBoth(a, b string) { l.Heal(a, b); l.Heal(b, a) }

// Close closes all proxies. It may be called twice.
func (l *Links) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for _, p := range l.proxies {
		p.Close()
	}
}

func (l *Links) change(from, to string, set func(*linkState)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.state[way{from, to}]
	now := old
	set(&now)
	l.state[way{from, to}] = now
	for key, p := range l.proxies {
		switch key.way {
		case way{from, to}:
			apply(p, Up, old, now)
		case way{to, from}: // bytes that answer a client of the far end
			apply(p, Down, old, now)
		}
	}
}

func apply(p *Proxy, d Direction, old, now linkState) {
	if old.delay != now.delay || old.jitter != now.jitter {
		p.SetDelay(d, now.delay, now.jitter)
	}
	if old.rate != now.rate {
		p.SetRate(d, now.rate)
	}
	switch {
	case now.cut && !old.cut:
		p.Cut(d)
	case old.cut && !now.cut:
		p.Restore(d)
	}
}
