package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/failover"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

// answerMax bounds an answer; the largest lists every partition of a fleet.
const answerMax = 64 << 20

// Client speaks to the daemon on this host. Every error is a *Problem. It may
// be used by many goroutines.
type Client struct {
	socket string
	http   *http.Client
	on     string
}

// Dial returns a client for a socket. Nothing is connected yet.
func Dial(socket string) *Client {
	dialer := &net.Dialer{Timeout: 2 * time.Second}
	on := os.Getenv("SUDO_USER")
	if on == "" {
		on = os.Getenv("LOGNAME")
	}
	return &Client{socket: socket, on: claim(on), http: &http.Client{
		Timeout: withinWorld + 10*time.Second,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return dialer.DialContext(ctx, "unix", socket)
			},
			MaxConnsPerHost: 4, IdleConnTimeout: time.Minute, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Socket returns the path that the client was made for.
func (c *Client) Socket() string { return c.socket }

// Close lets idle connections go.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status returns what the daemon knows.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, "read status", "/v1/status")
}

// Check lets the daemons look at the world. An empty region means all.
func (c *Client) Check(ctx context.Context, region topology.Region) (CheckReport, error) {
	return get[CheckReport](ctx, c, "check", "/v1/check"+regionQuery(region))
}

// Members returns the daemons of the fleet.
func (c *Client) Members(ctx context.Context) (Members, error) {
	return get[Members](ctx, c, "list members", "/v1/members")
}

// Audit returns the newest n lines of the audit log, 200 at most.
func (c *Client) Audit(ctx context.Context, n int) (AuditReport, error) {
	return get[AuditReport](ctx, c, "read the audit log", "/v1/audit?n="+strconv.Itoa(n))
}

// PlanFailover changes nothing.
func (c *Client) PlanFailover(ctx context.Context, want failover.Intent) (Planned, error) {
	return post[Planned](ctx, c, "plan failover", "/v1/failover/plan", want)
}

// RunFailover starts a plan that was shown. want may be nil if this daemon showed it.
func (c *Client) RunFailover(ctx context.Context, hash string, want *failover.Intent) (consensus.PlanID, error) {
	s, err := post[Started](ctx, c, "run failover", "/v1/failover/run", RunPlan{hash, want})
	return s.Plan, err
}

// Plans returns the plans that the log keeps, live ones first.
func (c *Client) Plans(ctx context.Context) ([]Plan, error) {
	l, err := get[PlanList](ctx, c, "list plans", "/v1/plans")
	return l.Plans, err
}

// Plan returns one plan.
func (c *Client) Plan(ctx context.Context, id consensus.PlanID) (Plan, error) {
	return get[Plan](ctx, c, "read plan", "/v1/plans/"+url.PathEscape(string(id)))
}

// Abort turns a running plan back.
func (c *Client) Abort(ctx context.Context, id consensus.PlanID, why string) error {
	_, err := post[Done](ctx, c, "abort plan", "/v1/plans/"+url.PathEscape(string(id))+"/abort", Why{why})
	return err
}

// Retry tries the failed step of a plan again at once.
func (c *Client) Retry(ctx context.Context, id consensus.PlanID) error {
	_, err := post[Done](ctx, c, "retry plan", "/v1/plans/"+url.PathEscape(string(id))+"/retry", nil)
	return err
}

// Ack acknowledges an unplanned failover.
func (c *Client) Ack(ctx context.Context, role topology.Role) error {
	_, err := post[Done](ctx, c, "acknowledge failover", "/v1/roles/"+url.PathEscape(string(role))+"/ack", nil)
	return err
}

// Pause suspends automatic moves of a role; a zero until resumes them.
func (c *Client) Pause(ctx context.Context, role topology.Role, until time.Time, reason string) error {
	_, err := post[Done](ctx, c, "pause role", "/v1/roles/"+url.PathEscape(string(role))+"/pause", PauseRole{until, reason})
	return err
}

// MirrorStatus returns every mirrored direction in full.
func (c *Client) MirrorStatus(ctx context.Context) (MirrorReport, error) {
	return get[MirrorReport](ctx, c, "read mirror status", "/v1/mirror")
}

// MirrorPause stops mirroring for a while.
func (c *Client) MirrorPause(ctx context.Context, h MirrorHold) error {
	_, err := post[Done](ctx, c, "pause mirror", "/v1/mirror/pause", h)
	return err
}

// MirrorResume mirrors again, and tries frozen partitions once more.
func (c *Client) MirrorResume(ctx context.Context, h MirrorHold) error {
	_, err := post[Done](ctx, c, "resume mirror", "/v1/mirror/resume", h)
	return err
}

// PlanReseed changes nothing.
func (c *Client) PlanReseed(ctx context.Context, want Reseed) (Planned, error) {
	return post[Planned](ctx, c, "plan reseed", "/v1/mirror/reseed/plan", want)
}

// RunReseed starts a reseed plan that was shown.
func (c *Client) RunReseed(ctx context.Context, hash string, want *Reseed) (consensus.PlanID, error) {
	s, err := post[Started](ctx, c, "run reseed", "/v1/mirror/reseed/run", RunReseed{hash, want})
	return s.Plan, err
}

// GroupsCheck reads the consumer groups of a region now. An empty region means all.
func (c *Client) GroupsCheck(ctx context.Context, region topology.Region) (GroupsReport, error) {
	return get[GroupsReport](ctx, c, "check groups", "/v1/groups"+regionQuery(region))
}

// StartBackup has a region's daemon take a recovery set now.
func (c *Client) StartBackup(ctx context.Context, want StartBackup) (consensus.RunID, error) {
	s, err := post[RunStarted](ctx, c, "start backup", "/v1/backups", want)
	return s.Run, err
}

// StartDrill has a daemon prove a recovery set now.
func (c *Client) StartDrill(ctx context.Context, want StartDrill) (consensus.RunID, error) {
	s, err := post[RunStarted](ctx, c, "start drill", "/v1/drills", want)
	return s.Run, err
}

// CancelRun ends a live backup or drill.
func (c *Client) CancelRun(ctx context.Context, id consensus.RunID, why string) error {
	_, err := post[Done](ctx, c, "cancel run", "/v1/runs/"+url.PathEscape(string(id))+"/cancel", Why{why})
	return err
}

// Runs returns the backups and drills that the log keeps, live ones first. An
// empty kind means both.
func (c *Client) Runs(ctx context.Context, kind string) ([]Run, error) {
	path := "/v1/runs"
	if kind != "" {
		path += "?kind=" + url.QueryEscape(kind)
	}
	l, err := get[RunList](ctx, c, "list runs", path)
	return l.Runs, err
}

// Run returns one backup or drill.
func (c *Client) Run(ctx context.Context, id consensus.RunID) (Run, error) {
	return get[Run](ctx, c, "read run", "/v1/runs/"+url.PathEscape(string(id)))
}

// Sets returns the headers of the sets that the log keeps, newest first.
func (c *Client) Sets(ctx context.Context) ([]SetRow, error) {
	l, err := get[SetList](ctx, c, "list sets", "/v1/sets")
	return l.Sets, err
}

// ConfigDrift compares the daemon's fleet file with what is agreed on.
func (c *Client) ConfigDrift(ctx context.Context) (ConfigDrift, error) {
	return get[ConfigDrift](ctx, c, "compare the configuration", "/v1/config")
}

// ConfigApply makes the daemon's fleet file what all agree on.
func (c *Client) ConfigApply(ctx context.Context) (ConfigApplied, error) {
	return post[ConfigApplied](ctx, c, "apply the configuration", "/v1/config/apply", nil)
}

// Guard says how a guarded process is, and returns the daemon's word.
func (c *Client) Guard(ctx context.Context, s GuardStatus) (GuardWord, error) {
	return post[GuardWord](ctx, c, "ask about the role", "/v1/guard", s)
}

func regionQuery(r topology.Region) string {
	if r == "" {
		return ""
	}
	return "?region=" + url.QueryEscape(string(r))
}

func get[T any](ctx context.Context, c *Client, what, path string) (T, error) {
	return call[T](ctx, c, what, http.MethodGet, path, nil)
}

func post[T any](ctx context.Context, c *Client, what, path string, in any) (T, error) {
	var b []byte
	if in != nil {
		var err error
		if b, err = json.Marshal(in); err != nil {
			var none T
			return none, Problemf(Internal, what, "", "encode the request: %s", err)
		}
	}
	return call[T](ctx, c, what, http.MethodPost, path, b)
}

func call[T any](ctx context.Context, c *Client, what, method, path string, in []byte) (T, error) {
	var out, none T
	r, err := http.NewRequestWithContext(ctx, method, "http://holdfast"+path, bytes.NewReader(in))
	if err != nil {
		return none, Problemf(Internal, what, "", "%s", err)
	}
	if in != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if c.on != "" {
		r.Header.Set(HeaderFor, c.on)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return none, c.unreached(what, method, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, answerMax+1))
	if err != nil {
		return none, c.unreached(what, method, err)
	}
	if len(b) > answerMax {
		return none, Problemf(Internal, what, "", "the daemon's answer is longer than %d MiB", answerMax>>20)
	}
	if resp.StatusCode != http.StatusOK {
		p := &Problem{}
		if err := json.Unmarshal(b, p); err != nil || p.Code == "" {
			return none, Problemf(Internal, what, "is it a holdfast daemon of this version? `holdfast version`", "%s answers %s", c.socket, resp.Status)
		}
		return none, p
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return none, Problemf(Internal, what, "the daemon may be of another version: `holdfast version`", "read the daemon's answer: %s", err)
	}
	return out, nil
}

// unreached says why no answer came. An act whose answer was lost may have
// happened; a connection that was never made changed nothing.
func (c *Client) unreached(what, method string, err error) *Problem {
	running := "is holdfast.service running? `systemctl status holdfast`; another socket is named with --socket"
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		switch {
		case errors.Is(err, fs.ErrPermission):
			return Problemf(Unavailable, what, "run it as root, or join the group of the socket", "no right to use socket %s", c.socket)
		case errors.Is(err, fs.ErrNotExist):
			return Problemf(Unavailable, what, running, "no daemon answers on socket %s: it does not exist", c.socket)
		case errors.Is(err, syscall.ECONNREFUSED):
			return Problemf(Unavailable, what, running, "no daemon answers on socket %s: nobody listens", c.socket)
		}
		return Problemf(Unavailable, what, running, "no daemon answers on socket %s: %s", c.socket, op.Err)
	}
	why := err
	var u *url.Error
	if errors.As(err, &u) {
		why = u.Err
	}
	if method == http.MethodPost {
		return Problemf(Unknown, what, "look before you repeat it: `holdfast status`", "the answer was lost: %s", why)
	}
	return Problemf(Unavailable, what, running, "the daemon on socket %s did not answer: %s", c.socket, fmt.Sprint(why))
}
