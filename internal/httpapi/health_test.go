package httpapi

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// story answers one verdict after the other; the last one stays.
type story struct {
	verdicts []consensus.Verdict
	asked    int
	lag      time.Duration
	standby  bool
	ready    []Dependency
}

func (s *story) Verdict(role topology.Role) (consensus.Verdict, bool) {
	if role != topology.Ingestion {
		return consensus.Verdict{}, false
	}
	v := s.verdicts[min(s.asked, len(s.verdicts)-1)]
	s.asked++
	return v, true
}

func (s *story) Standby(topology.Role) (time.Duration, bool, string) {
	return s.lag, s.standby, "kafka has not been checked"
}
func (s *story) Ready() []Dependency { return s.ready }

func ask(t *testing.T, b HealthBackend, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "holdfast_test_seconds"}, func() float64 { return 7 }))
	w := httptest.NewRecorder()
	NewHealth(b, reg).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, nil))
	return w
}

var (
	active = consensus.Verdict{Active: true, Leased: true, Phase: consensus.Open, Epoch: 7, Remaining: 9800 * time.Millisecond}
	lapsed = consensus.Verdict{Phase: consensus.Open, Epoch: 7, Why: "the lease ran out 3ms ago"}
	held   = consensus.Verdict{Active: true, Leased: true, Held: true, Phase: consensus.Open, Epoch: 7}
)

func TestHealth_AnswersGetHeadAndOptionsAlike(t *testing.T) {
	for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
		w := ask(t, &story{verdicts: []consensus.Verdict{active}}, method, "/v1/role/ingestion/active")
		if w.Code != http.StatusOK {
			t.Errorf("%s: %d", method, w.Code)
		}
		for k, want := range map[string]string{
			HeaderEpoch: "7", HeaderRemaining: "9800", HeaderLease: "", "Cache-Control": "no-store", "Content-Length": "34",
		} {
			if got := w.Header().Get(k); got != want {
				t.Errorf("%s: %s is %q, want %q", method, k, got, want)
			}
		}
		if body := w.Body.String(); (method == "HEAD") != (body == "") {
			t.Errorf("%s: body %q", method, body)
		}
	}
	for _, path := range []string{"/v1/role/ingestion/active", "/v1/role/ingestion/standby", "/livez", "/readyz"} {
		w := ask(t, &story{verdicts: []consensus.Verdict{active}}, "POST", path)
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD, OPTIONS" {
			t.Errorf("POST %s: %d, Allow %q", path, w.Code, w.Header().Get("Allow"))
		}
	}
}

func TestHealth_SaysWhyAndWhenItIsHeld(t *testing.T) {
	w := ask(t, &story{verdicts: []consensus.Verdict{lapsed}}, "GET", "/v1/role/ingestion/active")
	if w.Code != 503 || !strings.Contains(w.Body.String(), "the lease ran out 3ms ago") || w.Header().Get(HeaderRemaining) != "0" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
	w = ask(t, &story{verdicts: []consensus.Verdict{held}}, "GET", "/v1/role/ingestion/active")
	if w.Code != 200 || w.Header().Get(HeaderLease) != "held" {
		t.Errorf("held: %d %v", w.Code, w.Header())
	}
	w = ask(t, &story{verdicts: []consensus.Verdict{active}}, "GET", "/v1/role/nosuch/active")
	if w.Code != 404 || !strings.Contains(w.Body.String(), "nosuch") {
		t.Errorf("unknown role: %d %q", w.Code, w.Body)
	}
}

func TestHealth_NeverSendsA200ThatIsOver(t *testing.T) {
	s := &story{verdicts: []consensus.Verdict{active, lapsed}}
	w := ask(t, s, "GET", "/v1/role/ingestion/active")
	if w.Code != 503 || !strings.Contains(w.Body.String(), "ran out") || w.Header().Get(HeaderRemaining) != "0" {
		t.Errorf("the lease ran out while the answer was composed: %d %q %v", w.Code, w.Body, w.Header())
	}
	if s.asked != 2 {
		t.Errorf("asked %d times", s.asked)
	}

	next := active
	next.Epoch = 8
	w = ask(t, &story{verdicts: []consensus.Verdict{active, next}}, "GET", "/v1/role/ingestion/active")
	if w.Code != 503 || w.Header().Get(HeaderEpoch) != "8" {
		t.Errorf("granted anew while the answer was composed: %d epoch %s", w.Code, w.Header().Get(HeaderEpoch))
	}

	w = ask(t, &story{verdicts: []consensus.Verdict{lapsed, active}}, "GET", "/v1/role/ingestion/active")
	if w.Code != 503 {
		t.Errorf("a 503 turned into %d on its way out", w.Code)
	}
}

func TestHealth_StandbyKnowsItsDistance(t *testing.T) {
	try := func(s *story, query string, code int, words string) {
		t.Helper()
		s.verdicts = []consensus.Verdict{{Phase: consensus.Vacant, Epoch: 7}}
		w := ask(t, s, "GET", "/v1/role/ingestion/standby"+query)
		if w.Code != code || !strings.Contains(w.Body.String(), words) {
			t.Errorf("%q: %d %q, want %d %q", query, w.Code, w.Body, code, words)
		}
	}
	try(&story{standby: true, lag: 400 * time.Millisecond}, "", 200, "400ms behind")
	try(&story{standby: true, lag: 31 * time.Second}, "", 503, "more than 30s")
	try(&story{standby: true, lag: 31 * time.Second}, "?max_lag=1m", 200, "31s behind")
	try(&story{standby: true, lag: 2 * time.Second}, "?max_lag=1s", 503, "more than 1s")
	try(&story{lag: -1}, "", 503, "kafka has not been checked")
	try(&story{standby: true}, "?max_lag=soon", 400, "want a duration")
	try(&story{standby: true}, "?max_lag=-1s", 400, "want a duration")
}

func TestHealth_ReadyzHasOneLinePerDependency(t *testing.T) {
	s := &story{ready: []Dependency{{"raft", true, "follower of witness-1"}, {"kafka", false, "dial 127.0.0.1:9092: refused"}}}
	w := ask(t, s, "GET", "/readyz")
	if w.Code != 503 || w.Body.String() != "[+] raft: follower of witness-1\n[-] kafka: dial 127.0.0.1:9092: refused\nnot ready\n" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
	s.ready[1].OK = true
	if w := ask(t, s, "GET", "/readyz"); w.Code != 200 {
		t.Errorf("all is well: %d %q", w.Code, w.Body)
	}
	if w := ask(t, s, "GET", "/livez"); w.Code != 200 || w.Body.String() != "ok\n" {
		t.Errorf("livez: %d %q", w.Code, w.Body)
	}
	if w := ask(t, s, "GET", "/metrics"); w.Code != 200 || !strings.Contains(w.Body.String(), "holdfast_test_seconds 7") {
		t.Errorf("metrics: %d %q", w.Code, w.Body)
	}
}
