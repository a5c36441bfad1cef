package httpapi

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// HealthBackend answers load balancers. Its methods read memory and never
// wait: they are asked several times a second, also while everything else
// is stuck.
type HealthBackend interface {
	// Verdict answers for this very instant; false means that there is no
	// such role.
	Verdict(role topology.Role) (consensus.Verdict, bool)
	// Standby says whether this region could take the role over, how far its
	// data is behind, and why not. For a role that is not in the fleet it is
	// never asked.
	Standby(role topology.Role) (lag time.Duration, ok bool, why string)
	// Ready lists what this daemon depends on, in a fixed order.
	Ready() []Dependency
}

// Dependency is one line of /readyz.
type Dependency struct {
	Name   string `json:"name"` // kafka, clickhouse, raft, eu-west-1
	OK     bool   `json:"ok"`
	Detail string `json:"detail"` // one sentence
}

// Headers of the answers about a role.
const (
	HeaderEpoch     = "Holdfast-Epoch"
	HeaderRemaining = "Holdfast-Lease-Remaining-Ms"
	HeaderLease     = "Holdfast-Lease" // "held": past the deadline, by on_quorum_loss: hold
	HeaderLag       = "Holdfast-Lag-Ms"
)

// lagMaxDefault is the distance at which a standby still answers 200 when the
// request does not say.
const lagMaxDefault = 30 * time.Second

// NewHealth returns the handler of the listener that load balancers ask. It
// holds no connection to anything: each answer comes from b, at once.
func NewHealth(b HealthBackend, metrics prometheus.Gatherer) http.Handler {
	h := health{b}
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/role/{role}/active", reading(h.active))
	mux.HandleFunc("/v1/role/{role}/standby", reading(h.standby))
	mux.HandleFunc("/livez", reading(func(*http.Request) answer { return answer{code: http.StatusOK, text: "ok"} }))
	mux.HandleFunc("/readyz", reading(h.ready))
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{
		Timeout: 10 * time.Second, MaxRequestsInFlight: 4, ErrorHandling: promhttp.ContinueOnError,
	}))
	return mux
}

type health struct{ b HealthBackend }

// answer is a response before it is sent.
type answer struct {
	code   int
	text   string
	header map[string]string
	// still is asked right before a 200 is sent; a returned answer replaces it.
	still func() (answer, bool)
}

// reading serves GET, HEAD and OPTIONS alike: balancers use all three, and
// each gets the same status and headers.
func reading(ask func(*http.Request) answer) http.HandlerFunc {
	methods := []string{http.MethodGet, http.MethodHead, http.MethodOptions}
	return func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(methods, r.Method) {
			w.Header().Set("Allow", strings.Join(methods, ", "))
			http.Error(w, "ask with GET, HEAD or OPTIONS", http.StatusMethodNotAllowed)
			return
		}
		a := ask(r)
		body := a.render(w.Header())
		if a.still != nil {
			if now, same := a.still(); !same {
				a = now
				clear(w.Header())
				body = a.render(w.Header())
			}
		}
		w.WriteHeader(a.code)
		if r.Method != http.MethodHead {
			_, _ = w.Write(body) // the client went away: nothing to do about it
		}
	}
}

func (a answer) render(h http.Header) []byte {
	body := append([]byte(strings.TrimSuffix(a.text, "\n")), '\n')
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("Allow", "GET, HEAD, OPTIONS")
	for k, v := range a.header {
		h.Set(k, v)
	}
	return body
}

func (h health) active(r *http.Request) answer {
	role := topology.Role(r.PathValue("role"))
	v, known := h.b.Verdict(role)
	if !known {
		return noRole(role)
	}
	a := activeAnswer(role, v)
	if v.Active {
		a.still = func() (answer, bool) {
			again, _ := h.b.Verdict(role)
			if again.Active && again.Epoch == v.Epoch {
				return answer{}, true
			}
			if again.Active { // granted anew between two reads: let the balancer ask again
				again.Active, again.Why = false, "the role was granted anew just now"
			}
			return activeAnswer(role, again), false
		}
	}
	return a
}

func activeAnswer(role topology.Role, v consensus.Verdict) answer {
	a := answer{code: http.StatusServiceUnavailable, header: map[string]string{
		HeaderEpoch:     strconv.FormatUint(uint64(v.Epoch), 10),
		HeaderRemaining: strconv.FormatInt(v.Remaining.Milliseconds(), 10),
	}}
	if v.Held {
		a.header[HeaderLease] = "held"
	}
	switch {
	case !v.Active:
		a.text = fmt.Sprintf("%s is not active here: %s", role, v.Why)
	case v.Held:
		a.code, a.text = http.StatusOK, fmt.Sprintf("%s is active here, epoch %d, held without a quorum", role, v.Epoch)
	default:
		a.code, a.text = http.StatusOK, fmt.Sprintf("%s is active here, epoch %d", role, v.Epoch)
	}
	return a
}

func (h health) standby(r *http.Request) answer {
	role := topology.Role(r.PathValue("role"))
	v, known := h.b.Verdict(role)
	if !known {
		return noRole(role)
	}
	lagMax := lagMaxDefault
	if q := r.URL.Query().Get("max_lag"); q != "" {
		d, err := time.ParseDuration(q)
		if err != nil || d < 0 {
			return answer{code: http.StatusBadRequest, text: fmt.Sprintf("max_lag=%q: want a duration such as 30s", q)}
		}
		lagMax = d
	}
	lag, ok, why := h.b.Standby(role)
	a := answer{code: http.StatusServiceUnavailable, header: map[string]string{
		HeaderEpoch: strconv.FormatUint(uint64(v.Epoch), 10),
	}}
	if lag >= 0 {
		a.header[HeaderLag] = strconv.FormatInt(lag.Milliseconds(), 10)
	}
	switch {
	case !ok:
		a.text = fmt.Sprintf("%s could not move here: %s", role, why)
	case lag > lagMax:
		a.text = fmt.Sprintf("%s is %s behind here, more than %s", role, lag.Round(time.Millisecond), lagMax)
	default:
		a.code, a.text = http.StatusOK, fmt.Sprintf("%s could move here, %s behind", role, lag.Round(time.Millisecond))
	}
	return a
}

func noRole(role topology.Role) answer {
	return answer{code: http.StatusNotFound, text: fmt.Sprintf("no role %q in this fleet", role)}
}

// ready prints one line per dependency. One that is down makes its own part
// of the daemon unready; the daemon runs on.
func (h health) ready(*http.Request) answer {
	var b bytes.Buffer
	code := http.StatusOK
	for _, d := range h.b.Ready() {
		mark := "[+]"
		if !d.OK {
			mark, code = "[-]", http.StatusServiceUnavailable
		}
		fmt.Fprintf(&b, "%s %s", mark, d.Name)
		if d.Detail != "" {
			fmt.Fprintf(&b, ": %s", d.Detail)
		}
		b.WriteByte('\n')
	}
	if code == http.StatusOK {
		b.WriteString("ready\n")
	} else {
		b.WriteString("not ready\n")
	}
	return answer{code: code, text: b.String()}
}
