package failover

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

var update = flag.Bool("update", false, "rewrite the narration of the stories in testdata")

// TestStories_AreToldAsBefore plays each file of testdata: lines above "----"
// are commands, lines below it what was told. testdata/README.md lists the
// commands. After a change on purpose: go test ./failover -run Stories -update,
// and read the diff.
func TestStories_AreToldAsBefore(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 16 {
		t.Fatalf("%d stories: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			written, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			told, err := tell(string(written))
			if err != nil {
				t.Fatal(err)
			}
			if *update {
				if err := os.WriteFile(file, []byte(told), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(strings.Split(string(written), "\n"), strings.Split(told, "\n")); diff != "" {
				t.Errorf("the story is told differently (- as written, + as told now):\n%s", diff)
			}
		})
	}
}

// tell plays a story and returns it with its narration.
func tell(written string) (string, error) {
	var out strings.Builder
	s := &story{}
	paragraphs := strings.Split(strings.TrimRight(written, "\n"), "\n\n")
	for i, paragraph := range paragraphs {
		if i > 0 {
			out.WriteString("\n")
		}
		asked, _, _ := strings.Cut(paragraph, "\n----")
		out.WriteString(asked + "\n")
		s.told.Reset()
		commands := 0
		for line := range strings.Lines(asked) {
			line = strings.TrimSpace(line)
			if line == "" || strings.HasPrefix(line, "#") {
				continue
			}
			commands++
			if err := s.command(line); err != nil {
				return "", fmt.Errorf("%q: %w", line, err)
			}
			if s.fleet != nil && s.fleet.broken != nil {
				return "", fmt.Errorf("%q broke a promise: %w", line, s.fleet.broken)
			}
		}
		if commands > 0 && s.told.Len() > 0 {
			out.WriteString("----\n" + s.told.String())
		}
	}
	return out.String(), nil
}

// story plays commands on a fleet and says what happens.
type story struct {
	*fleet
	told      bytes.Buffer
	candidate Candidate
	blockers  []Blocker
	made      bool // candidate is worth running
	full      bool // show each gate and each step of a candidate
	plans     int
}

func (s *story) say(format string, a ...any) { fmt.Fprintf(&s.told, format+"\n", a...) }

// args are the words of one command: plain ones, and key=value ones.
type args struct {
	verb  string
	words []string
	keys  map[string]string
}

func (a args) has(word string) bool { return slices.Contains(a.words, word) }

// parse splits a line into words; quotes keep blanks.
func parse(line string) (args, error) {
	a := args{keys: map[string]string{}}
	var words []string
	var word strings.Builder
	quoted := false
	for _, c := range line + " " {
		switch {
		case c == '"':
			quoted = !quoted
		case c == ' ' && !quoted:
			if word.Len() > 0 {
				words = append(words, word.String())
				word.Reset()
			}
		default:
			word.WriteRune(c)
		}
	}
	if quoted || len(words) == 0 {
		return a, fmt.Errorf("an open quote, or nothing at all")
	}
	a.verb = words[0]
	for _, w := range words[1:] {
		if k, v, ok := strings.Cut(w, "="); ok {
			a.keys[k] = v
		} else {
			a.words = append(a.words, w)
		}
	}
	return a, nil
}

func roleList(text string) []topology.Role {
	if text == "" {
		return nil
	}
	var out []topology.Role
	for name := range strings.SplitSeq(text, ",") {
		out = append(out, topology.Role(name))
	}
	return out
}

func (s *story) command(line string) error {
	a, err := parse(line)
	if err != nil {
		return err
	}
	if a.verb != "fleet" && s.fleet == nil {
		return fmt.Errorf("a story begins with fleet")
	}
	s.full = a.has("in-full")
	region := func() topology.Region {
		if len(a.words) == 0 {
			return ""
		}
		return topology.Region(a.words[0])
	}
	switch a.verb {
	case "fleet":
		s.fleet = newFleet(setup{
			policy: consensus.Policy(a.keys["policy"]), roles: roleList(a.keys["roles"]),
			auto: a.has("auto"), observe: a.has("observe"), hooks: a.has("hooks"),
		})
		s.applied = s.narrate
		s.status()
	case "status":
		s.status()
	case "report":
		return s.report(a)
	case "plan":
		s.candidate, s.blockers = MakePlan(s.now, s.state, s.h, s.rules, Intent{
			To: topology.Region(a.keys["to"]), Roles: roleList(a.keys["roles"]), Fenced: topology.Region(a.keys["fenced"]),
			Reason: a.keys["reason"], AcceptLoss: a.has("accept-loss"), Unplanned: a.has("unplanned"),
		})
		s.show()
	case "reseed":
		var topics []string
		if a.keys["topics"] != "" {
			topics = strings.Split(a.keys["topics"], ",")
		}
		s.candidate, s.blockers = MakeReseed(s.now, s.state, s.h, s.rules, region(), topics, a.keys["reason"])
		s.show()
	case "run":
		if !s.made {
			return fmt.Errorf("no candidate that nothing blocks")
		}
		_ = s.start("operator")
	case "automatic":
		s.automatic()
	case "go":
		return s.advance(a)
	case "round":
		s.renewals()
		s.lead()
		s.work()
	case "lead":
		s.lead()
	case "new-leader":
		s.say("a new leader: it knows the log and nothing else")
	case "kill":
		s.regions[region()].up = false
		s.say("%s: killed", region())
	case "return":
		s.boot(region())
		s.renewals()
	case "fail":
		times, err := strconv.Atoi(a.keys["times"])
		if err != nil {
			return err
		}
		s.faults[a.words[0]] = &fault{times, a.keys["error"]}
	case "expire":
		_ = s.expire(region())
	case "abort":
		_ = s.propose("operator", &consensus.AbortPlan{Plan: s.last(), Why: a.keys["why"]})
	case "supersede":
		_ = s.propose("operator", &consensus.SupersedePlan{Plan: s.last(), Why: a.keys["why"]})
	case "retry":
		p := s.state.Plans[s.last()]
		ref := consensus.StepRef{Plan: s.last()}
		if step, undo, left := p.CurrentUndo(); left && p.Phase == consensus.PlanAborting {
			ref.Step, ref.Undo = step, undo
		} else {
			ref.Step, _ = p.Current()
		}
		_ = s.propose("operator", &consensus.RetryTask{Step: ref})
	case "ack":
		for _, name := range sortedKeys(s.state.Roles) {
			_ = s.propose("operator", &consensus.AckFailover{Role: name})
		}
	case "judge":
		return s.judge(a)
	case "sleep":
		d, err := time.ParseDuration(a.words[0])
		if err != nil {
			return err
		}
		s.now = s.now.Add(d)
	default:
		return fmt.Errorf("no command %q", a.verb)
	}
	return nil
}

func (s *story) last() consensus.PlanID { return consensus.PlanID(fmt.Sprintf("plan-%d", s.plans)) }

func (s *story) start(by string) error {
	s.plans++
	s.made = false
	return s.run(s.last(), s.candidate, by)
}

// advance goes on until nothing moves, or until a step is about to be worked
// on: "go until=exec.start".
func (s *story) advance(a args) error {
	if a.keys["until"] == "" {
		s.settle()
		if waits := s.waits(); waits != "" {
			s.say("waits for %s", waits)
		}
		return nil
	}
	next := func() bool {
		p := s.state.Plans[s.last()]
		i, left := p.Current()
		return p.Phase.Live() && left && p.Steps[i].Kind == a.keys["until"] && (p.Steps[i].Decision() || len(s.state.Tasks) > 0)
	}
	for range roundsMax {
		if next() {
			return nil
		}
		s.renewals()
		s.lead()
		if next() {
			return nil
		}
		s.work()
	}
	return fmt.Errorf("%s never came", a.keys["until"])
}

func (s *story) automatic() {
	want, yes, why := Automatic(s.now, s.state, s.h, s.rules)
	if !yes {
		s.say("automatic: no, %s", why)
		return
	}
	s.say("automatic: %s to %s, %s", join(want.Roles), want.To, want.Reason)
	s.candidate, s.blockers = MakePlan(s.now, s.state, s.h, s.rules, want)
	s.show()
	if len(s.blockers) == 0 {
		_ = s.start("leader")
	}
}

// report changes what the leader hears: "report eu-west silent",
// "report mirror lag=40 records=20000", "report us-east probe=witness-1 failing=30s".
func (s *story) report(a args) error {
	if a.words[0] == "mirror" {
		id := there
		if a.keys["link"] != "" {
			id = consensus.LinkID(a.keys["link"])
		}
		l := mirrored()
		for k, v := range a.keys {
			var err error
			switch k {
			case "link":
			case "lag":
				l.Seconds, err = strconv.ParseFloat(v, 64)
			case "records":
				l.Records, err = strconv.ParseInt(v, 10, 64)
			case "seen":
				l.SourceSeen, err = time.ParseDuration(v)
			case "missing":
				l.Coverage.Covered, l.Coverage.Missing = l.Coverage.Groups-1, []string{v}
			case "frozen":
				var f FrozenPartition
				f.Topic, f.Partition.Partition, f.From, f.To, err = partitionRange(v)
				f.Reason = "end moved by someone else"
				l.Frozen = []FrozenPartition{f}
			default:
				err = fmt.Errorf("no figure %q", k)
			}
			if err != nil {
				return err
			}
		}
		l.Running = !a.has("stopped")
		s.h.Links[id] = l
		return nil
	}
	name := topology.Region(a.words[0])
	r := s.h.Regions[name]
	if a.has("silent") {
		r.Heard = time.Minute
	}
	if a.has("heard") {
		r.Heard = time.Second
	}
	for k, v := range a.keys {
		switch k {
		case "probe", "failing":
		case "ppm":
			ppm, err := strconv.ParseFloat(v, 64)
			if err != nil {
				return err
			}
			r.ClockPPM = ppm
		default:
			r.Stores[k] = Check{v == "ok", v}
		}
	}
	if node := a.keys["probe"]; node != "" {
		failing, err := time.ParseDuration(a.keys["failing"])
		if err != nil {
			return err
		}
		r.Probes[topology.Node(node)] = Probe{Age: time.Second, Failing: failing}
	}
	s.h.Regions[name] = r
	return nil
}

// partitionRange reads "events/0[120,140)".
func partitionRange(text string) (topic string, partition int32, from, to int64, err error) {
	topic, rest, ok := strings.Cut(text, "/")
	if _, err = fmt.Sscanf(rest, "%d[%d,%d)", &partition, &from, &to); err != nil || !ok {
		err = fmt.Errorf("%q: want topic/0[1,2)", text)
	}
	return topic, partition, from, to, err
}

// judge is what the daemon of a returned region finds: "judge
// orphans=events/0[120,140)", which it salvages and goes on behind, or "judge
// frozen=events/0[120,140)", which cannot follow.
func (s *story) judge(a args) error {
	for _, id := range sortedKeys(s.state.Links) {
		l := s.state.Links[id]
		if l.Phase != consensus.LinkUnproven {
			continue
		}
		c := &consensus.JudgeLink{Link: id, Epoch: l.Epoch}
		if text := a.keys["frozen"]; text != "" {
			topic, partition, from, to, err := partitionRange(text)
			if err != nil {
				return err
			}
			c.Frozen = consensus.Ranges{topic: {partition: {From: from, To: to, Reason: "it differs"}}}
		}
		if text := a.keys["orphans"]; text != "" {
			topic, partition, from, to, err := partitionRange(text)
			if err != nil {
				return err
			}
			c.Orphans = consensus.Spans{topic: {partition: {{From: from, To: to}}}}
			c.Starts = consensus.Offsets{topic: {partition: to}}
			c.Salvage = &consensus.Salvage{ID: "salvage-1", Link: id, Epoch: l.Epoch, Where: "s3://sets", Digest: "d", Records: to - from, Orphans: c.Orphans}
		}
		_ = s.propose(string(l.To), c)
	}
	return nil
}

// show prints a candidate as a person reads it.
func (s *story) show() {
	c := s.candidate
	s.made = len(s.blockers) == 0
	if len(c.Plan.Steps) == 0 {
		for _, b := range s.blockers {
			s.say("no plan: %s\n  fix: %s", b.Why, b.Fix)
		}
		return
	}
	moves := ""
	if len(c.Plan.Roles) > 0 {
		moves = join(c.Plan.Roles) + ", "
	}
	s.say("%s: %s%s to %s, pause about %s", c.Plan.Kind, moves, c.Plan.From, c.Plan.To, c.Pause)
	if c.Supersedes != "" {
		s.say("  gives up %s", c.Supersedes)
	}
	if c.Loss.Basis != "" {
		s.say("  loses %d to %d: %s", c.Loss.Min, c.Loss.Max, c.Loss.Basis)
	}
	quiet := 0
	for _, g := range c.Gates {
		verdict := "ok"
		if g.Note {
			verdict = "--"
		} else if !g.OK {
			verdict = "NO"
		} else if !s.full {
			quiet++
			continue
		}
		s.say("  %s  %s: %s", verdict, g.Name, g.Detail)
		if g.Fix != "" {
			s.say("      fix: %s", g.Fix)
		}
	}
	if !s.full {
		s.say("  ok  %d other gates; %d steps", quiet, len(c.Plan.Steps))
	}
	for i, step := range c.Plan.Steps {
		if !s.full {
			break
		}
		mark := ""
		if step.NoReturn {
			mark = "   <- no way back from here"
		}
		s.say("  %2d  %-8s %s%s", i+1, step.Region, step.Title, mark)
		for _, u := range step.Undo {
			s.say("      %-8s   undo: %s", u.Region, u.Title)
		}
	}
	if n := len(s.blockers); n > 0 {
		s.say("  refused by %d", n)
	}
}

func (s *story) status() {
	for _, name := range sortedKeys(s.state.Roles) {
		s.say("%s: %s", name, describe(s.state.Roles[name]))
	}
	for _, id := range sortedKeys(s.state.Links) {
		s.say("%s: %s", id, describeLink(s.state.Links[id]))
	}
	for _, id := range sortedKeys(s.state.Plans) {
		p := s.state.Plans[id]
		s.say("%s: %s%s", id, p.Phase, because(p.Why))
	}
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ", because " + why
}

func describe(r consensus.Role) string {
	if r.Phase == consensus.Vacant {
		if r.Last.Holder == "" {
			return "vacant"
		}
		return fmt.Sprintf("vacant, was %s in %s (%s)", r.Last.Phase, r.Last.Holder, r.Last.Basis)
	}
	return fmt.Sprintf("%s in %s, epoch %d, %s", r.Phase, r.Holder, r.Epoch, r.Basis)
}

func describeLink(l consensus.Link) string {
	out := fmt.Sprintf("%s, epoch %d", l.Phase, l.Epoch)
	for _, topic := range sortedKeys(l.Frozen) {
		for _, n := range sortedKeys(l.Frozen[topic]) {
			r := l.Frozen[topic][n]
			out += fmt.Sprintf(", %s/%d frozen [%d,%d)", topic, n, r.From, r.To)
		}
	}
	for _, topic := range sortedKeys(l.Orphans) {
		for _, n := range sortedKeys(l.Orphans[topic]) {
			for _, o := range l.Orphans[topic][n] {
				out += fmt.Sprintf(", %s/%d has orphans [%d,%d)", topic, n, o.From, o.To)
			}
		}
	}
	return out
}

// narrate says what one command did, by what changed.
func (s *story) narrate(by string, b consensus.Body, before consensus.State, err error) {
	if _, asks := b.(*consensus.Reclaim); asks && err != nil {
		return // a daemon asks for what it lost, again and again
	}
	if err != nil {
		s.say("%s: %s refused: %v", by, consensus.Command{Body: b}.Kind(), err)
		return
	}
	switch c := b.(type) {
	case *consensus.OpenSession:
		s.say("%s: back, life %d", by, s.regions[topology.Region(by)].life)
	case *consensus.CreatePlan:
		s.say("%s: %s begins", by, c.ID)
	case *consensus.FinishTask:
		t := before.Tasks[c.Task]
		s.say("%s: %s", by, stepLine(before, t.Ref))
	case *consensus.FailTask:
		t := before.Tasks[c.Task]
		s.say("%s: %s: attempt %d failed: %s", by, stepLine(before, t.Ref), t.Attempt, c.Error)
	case *consensus.RetryTask:
		s.say("%s: try %s again", by, stepLine(before, c.Step))
	case *consensus.DrainRoles:
		s.say("%s: %s", by, stepLine(before, c.Step))
	case *consensus.GrantRoles:
		s.say("%s: %s", by, stepLine(before, c.Step))
	case *consensus.OpenRoles:
		s.say("%s: %s", by, stepLine(before, c.Step))
	case *consensus.VoidRoles:
		s.say("%s: %s", by, stepLine(before, c.Step))
	case *consensus.StartLink:
		s.say("%s: %s", by, stepLine(before, c.Step))
	case *consensus.Expire:
		s.say("%s: the lease of %s has been counted out", by, c.Role)
	case *consensus.Reclaim:
		s.say("%s: takes %s again", by, c.Role)
	case *consensus.JudgeLink:
		s.say("%s: compared what it holds with %s", by, before.Links[c.Link].From)
	}
	s.changes(before)
}

func stepLine(s consensus.State, ref consensus.StepRef) string {
	p := s.Plans[ref.Plan]
	step, _ := p.At(ref)
	if ref.Undo > 0 {
		return fmt.Sprintf("undo %d, %s", ref.Step+1, step.Title)
	}
	return fmt.Sprintf("step %d, %s", ref.Step+1, step.Title)
}

// changes says how roles, links and plans differ from before.
func (s *story) changes(before consensus.State) {
	for _, name := range sortedKeys(s.state.Roles) {
		if was, now := describe(before.Roles[name]), describe(s.state.Roles[name]); was != now {
			s.say("    %s: %s", name, now)
		}
	}
	for _, id := range sortedKeys(s.state.Links) {
		if was, now := describeLink(before.Links[id]), describeLink(s.state.Links[id]); was != now {
			s.say("    %s: %s", id, now)
		}
	}
	for _, id := range sortedKeys(s.state.Plans) {
		if was, now := before.Plans[id].Phase, s.state.Plans[id].Phase; was != now {
			s.say("    %s: %s%s", id, now, because(s.state.Plans[id].Why))
		}
	}
}
