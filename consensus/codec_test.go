package consensus

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// drawBody draws any command with small random fields: the names are few, so
// that commands meet each other.
func drawBody(t *rapid.T) Body {
	kind := rapid.SampledFrom(slices.Sorted(maps.Keys(bodies))).Draw(t, "kind")
	body := bodies[kind]()
	fill(t, reflect.ValueOf(body).Elem(), 0)
	return body
}

var words = []string{"", "us-east", "eu-west", "us-east-1", "eu-west-1", "ingestion", "query", "p1", "p2", "p1/01", "e1", "w1",
	"us-east>eu-west", "eu-west>us-east", "demote", "hold", "planned", "role.grant", "role.drain", "role.open", "h", "one"}

// fill sets every exported field to something small.
func fill(t *rapid.T, v reflect.Value, depth int) {
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(storyStart.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "s")) * time.Second)))
		return
	case json.RawMessage:
		v.Set(reflect.ValueOf(json.RawMessage(rapid.SampledFrom([]string{`{"a":1}`, `[]`, `"x"`}).Draw(t, "json"))))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(rapid.SampledFrom(words).Draw(t, "word"))
	case reflect.Bool:
		v.SetBool(rapid.Bool().Draw(t, "bool"))
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(rapid.IntRange(-1, 4).Draw(t, "int")))
	case reflect.Uint64:
		v.SetUint(uint64(rapid.IntRange(0, 4).Draw(t, "uint")))
	case reflect.Float64:
		v.SetFloat(1.5)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), depth+1)
		}
	case reflect.Pointer:
		if rapid.Bool().Draw(t, "there") {
			v.Set(reflect.New(v.Type().Elem()))
			fill(t, v.Elem(), depth+1)
		}
	case reflect.Slice:
		n := rapid.IntRange(0, max(0, 3-depth/2)).Draw(t, "n")
		if n == 0 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(t, v.Index(i), depth+1)
		}
	case reflect.Map:
		n := rapid.IntRange(0, 2).Draw(t, "n")
		if n == 0 {
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		for range n {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(t, key, depth+1)
			fill(t, value, depth+1)
			v.SetMapIndex(key, value)
		}
	default:
		panic("a command has a field of kind " + v.Kind().String())
	}
}

func TestCommand_OfEveryKindSurvivesTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := Command{At: storyStart, By: "node us-east-1", Body: drawBody(t)}
		entry, err := EncodeCommand(c)
		if err != nil {
			t.Fatal(err)
		}
		read, err := DecodeCommand(entry)
		if err != nil {
			t.Fatalf("decode %s: %v", entry, err)
		}
		if diff := cmp.Diff(c, read); diff != "" || read.Kind() != c.Kind() {
			t.Fatalf("%s came back changed:\n%s", c.Kind(), diff)
		}
	})
}

// Whatever order commands come in, the log means one thing: each member gets
// the same bytes, nothing that was handed out changes, and the rules of roles
// hold after every entry.
func TestApply_IsAFunctionOfTheLog(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newStory(t).held()
		states := []State{b.State}
		before := [][]byte{b.bytes(b.State)}
		var log []Command
		for range rapid.IntRange(1, 40).Draw(rt, "length") {
			c := Command{At: storyStart, By: "rapid", Body: drawLikely(rt, states[len(states)-1])}
			next, err := states[len(states)-1].Apply(c)
			if err != nil && !Refused(err) {
				rt.Fatalf("%s: an error that is no refusal: %v", c.Kind(), err)
			}
			log = append(log, c)
			checkGrants(rt, c, states[len(states)-1], next)
			states, before = append(states, next), append(before, b.bytes(next))
		}
		for i, s := range states {
			if !bytes.Equal(before[i], b.bytes(s)) {
				rt.Fatalf("state %d was changed by a later command", i)
			}
		}
		again, err := DecodeState(before[0]) // a member that starts from a snapshot
		if err != nil {
			rt.Fatal(err)
		}
		for _, c := range log {
			again, _ = again.Apply(c)
		}
		if !bytes.Equal(before[len(before)-1], b.bytes(again)) {
			rt.Fatalf("another member differs:\n%s\n%s", before[len(before)-1], b.bytes(again))
		}
		if err := again.Audit.Verify(); err != nil {
			rt.Fatal(err)
		}
	})
}

// drawLikely draws a command that has a chance: any at random, or one that
// fits the state.
func drawLikely(t *rapid.T, s State) Body {
	r := s.Roles[ingestion]
	here := []RoleEpoch{{ingestion, r.Epoch}}
	id, p, live := s.LivePlan(ingestion)
	ref := StepRef{Plan: id}
	if p.Phase == PlanAborting {
		ref.Step, ref.Undo, _ = p.CurrentUndo()
	} else if live {
		ref.Step, _ = p.Current()
	}
	to := rapid.SampledFrom([]topology.Region{east, west}).Draw(t, "to")
	fresh := PlanID(rapid.SampledFrom([]string{"p1", "p2", "p3", "p4", "p5"}).Draw(t, "plan"))
	plan := Plan{Kind: Planned, Hash: "h", From: east, To: to, Roles: onlyIngestion, Epochs: map[topology.Role]Epoch{ingestion: r.Epoch}, Steps: moveSteps()}
	void := plan
	void.Kind, void.Fenced, void.Steps = Unplanned, r.Holder, []Step{step(StepVoid), noReturn(StepGrant), step(StepOpen)}
	attempt := s.Tasks[TaskOf(ref)].Attempt
	node, session := eastNode, SessionID("e1")
	if s.Tasks[TaskOf(ref)].Region == west {
		node, session = westNode, "w1"
	}
	likely := []Body{
		&Expire{Role: ingestion, Generation: 1, Epoch: r.Epoch, Sequence: r.Sequence},
		&Renew{Role: ingestion, Node: r.Node, Session: s.Sessions[r.Node].ID, Generation: 1, Epoch: r.Epoch, Policy: Demote, Nonce: r.Nonce + 1},
		&Reclaim{Role: ingestion, Node: eastNode, Session: "e1", Generation: 1, Epoch: r.Epoch + 1},
		&Reclaim{Role: ingestion, Node: westNode, Session: "w1", Generation: 1, Epoch: r.Epoch + 1},
		&Release{Role: ingestion, Node: r.Node, Generation: 1, Epoch: r.Epoch},
		&CreatePlan{ID: fresh, Plan: plan}, &CreatePlan{ID: fresh, Plan: void},
		&DrainRoles{Step: ref, Roles: here}, &OpenRoles{Step: ref, Roles: here},
		&VoidRoles{Step: ref, Roles: here, Reason: "off"},
		&GrantRoles{Step: ref, To: to, Roles: []RoleEpoch{{ingestion, r.Epoch + 1}}},
		&StartStep{Step: ref}, &ClaimTask{Task: TaskOf(ref), Attempt: attempt, Node: node, Session: session},
		&FinishTask{Task: TaskOf(ref), Attempt: attempt, Session: session},
		&FailTask{Task: TaskOf(ref), Attempt: attempt, Session: session, Error: "x"},
		&AbortPlan{Plan: id}, &FinishPlan{Plan: id}, &SupersedePlan{Plan: id},
	}
	i := rapid.IntRange(0, len(likely)+2).Draw(t, "which")
	if i >= len(likely) {
		return drawBody(t)
	}
	return likely[i]
}

// checkGrants checks what no command may break: epochs rise one by one and
// only with a grant to a vacant role, and a holder leaves only by its own
// word, by a count, or by an attestation.
func checkGrants(t *rapid.T, c Command, before, after State) {
	for name, is := range after.Roles {
		was := before.Roles[name]
		switch {
		case is.Epoch != was.Epoch:
			if is.Epoch != was.Epoch+1 || was.Phase != Vacant || is.Phase == Vacant {
				t.Fatalf("%s took %s from %s at epoch %d to %s at epoch %d", c.Kind(), name, was.describe(), was.Epoch, is.describe(), is.Epoch)
			}
		case was.Phase == Vacant && is.Phase != Vacant:
			t.Fatalf("%s gave %s away at an old epoch", c.Kind(), name)
		case is.Holder != was.Holder || is.Node != was.Node:
			switch c.Body.(type) {
			case *Release, *Expire, *VoidRoles:
			default:
				t.Fatalf("%s took %s from its holder", c.Kind(), name)
			}
		}
	}
}

func TestLog_WithSomethingUnknownHaltsTheMember(t *testing.T) {
	for why, entry := range map[string]string{
		"not JSON":       `renew`,
		"nothing":        ``,
		"a new kind":     `{"v":1,"kind":"teleport","body":{}}`,
		"a new schema":   `{"v":2,"kind":"renew","body":{}}`,
		"no schema":      `{"kind":"renew","body":{}}`,
		"a wrong field":  `{"v":1,"kind":"renew","body":{"epoch":"seven"}}`,
		"no body":        `{"v":1,"kind":"renew"}`,
		"a new field":    `{"v":1,"kind":"renew","body":{"epoch":7,"urgency":9}}`,
		"a new envelope": `{"v":1,"kind":"renew","body":{},"signature":"x"}`,
		"two values":     `{"v":1,"kind":"renew","body":{}} {}`,
	} {
		if _, err := DecodeCommand([]byte(entry)); !errors.Is(err, ErrUnknownCommand) {
			t.Errorf("%s: %v", why, err)
		}
	}
	if _, err := DecodeState([]byte(`{"version":2}`)); !errors.Is(err, ErrUnknownCommand) {
		t.Errorf("a snapshot of a newer schema: %v", err)
	}
	if _, err := DecodeState([]byte(`{`)); err == nil {
		t.Error("half a snapshot was read")
	}
}

func TestCommand_TooLargeOrEmptyIsRefusedBeforeTheLog(t *testing.T) {
	if _, err := EncodeCommand(Command{}); !Refused(err, CodeInvalid) {
		t.Errorf("without a body: %v", err)
	}
	huge := &AbortPlan{Plan: "p1", Why: strings.Repeat("x", commandBytesMax)}
	if _, err := EncodeCommand(Command{Body: huge}); !Refused(err, CodeInvalid) {
		t.Errorf("too large: %v", err)
	}
}

// A log entry that can be read can be applied: it is accepted or refused, and
// the entry means the same after another pass through the codec.
func FuzzDecodeCommand(f *testing.F) {
	base := func() State {
		b := newStory(&testing.T{}).held()
		b.do(&CreatePlan{ID: "p1", Plan: b.plan(Planned, east, west, onlyIngestion, moveSteps()...)})
		return b.State
	}()
	for _, kind := range slices.Sorted(maps.Keys(bodies)) {
		entry, err := EncodeCommand(Command{At: storyStart, By: "fuzz", Body: bodies[kind]()})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(entry)
	}
	f.Add([]byte(`{"v":1,"kind":"drain","at":"2026-03-01T12:00:00Z","by":"x","body":{"step":{"plan":"p1","step":0},"roles":[{"role":"ingestion","epoch":1}]}}`))
	f.Add([]byte(`{"v":1,"kind":"task.fail","body":{"task":"p1/02","attempt":-1}}`))
	f.Add([]byte(`{"v":1,"kind":"plan.step","body":null}`))
	f.Fuzz(func(t *testing.T, entry []byte) {
		c, err := DecodeCommand(entry)
		if err != nil {
			if !errors.Is(err, ErrUnknownCommand) {
				t.Fatalf("an error that does not halt: %v", err)
			}
			return
		}
		next, err := base.Apply(c)
		if err != nil && !Refused(err) {
			t.Fatalf("%s: an error that is no refusal: %v", c.Kind(), err)
		}
		snapshot, err := EncodeState(next)
		if err != nil {
			t.Fatalf("%s made a state that cannot be written: %v", c.Kind(), err)
		}
		read, err := DecodeState(snapshot)
		if err != nil {
			t.Fatalf("%s made a state that cannot be read: %v", c.Kind(), err)
		}
		if again, err := EncodeState(read); err != nil || !bytes.Equal(snapshot, again) {
			t.Fatalf("%s: the snapshot differs after a restart: %v\n%s\n%s", c.Kind(), err, snapshot, again)
		}
	})
}

// A snapshot that can be read can be worked with, and is written the same
// each time. One that is damaged is an error, not a panic later.
func FuzzDecodeState(f *testing.F) {
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`{"version":1,"roles":null}`))
	f.Add([]byte(`{"version":1,"plans":{"p":{"phase":"running","journal":[{}],"steps":null}}}`))
	f.Add([]byte(`{"version":1,"plans":{"p":{"phase":"aborting","epochs":{},"steps":[{"undo":[{"region":"a"}]}],"journal":[{"state":"done"}]}}}`))
	f.Add([]byte(`{"version":1,"roles":{"query":{"phase":"open","holder":"a","node":"a-1","epoch":2}},"settings":{"roles":{"query":{}}},"members":{"a-1":{"region":"a"}}}`))
	f.Add([]byte(`{"version":1,"links":{"a>b":{"from":"a","to":"b","epoch":1,"phase":"running","starts":{"t":{"0":1}}}},"audit":{"count":1,"lines":[{"number":1,"body":{}}]}}`))
	f.Fuzz(func(t *testing.T, snapshot []byte) {
		s, err := DecodeState(snapshot)
		if err != nil {
			return
		}
		first, err := EncodeState(s)
		if err != nil {
			t.Fatalf("a state that was read cannot be written: %v", err)
		}
		read, err := DecodeState(first)
		if err != nil {
			t.Fatalf("a state that was written cannot be read: %v", err)
		}
		if second, err := EncodeState(read); err != nil || !bytes.Equal(first, second) {
			t.Fatalf("it changes from write to write: %v\n%s\n%s", err, first, second)
		}
		for _, body := range likelyOf(s) {
			if _, err := s.Apply(Command{At: storyStart, Body: body}); err != nil && !Refused(err) {
				t.Fatalf("%s: an error that is no refusal: %v", body.kind(), err)
			}
		}
	})
}

// likelyOf returns commands about each thing that a state holds.
func likelyOf(s State) []Body {
	var list []Body
	for name, r := range s.Roles {
		list = append(list, &Expire{Role: name, Generation: s.Generation, Epoch: r.Epoch, Sequence: r.Sequence},
			&Release{Role: name, Node: r.Node, Generation: s.Generation, Epoch: r.Epoch},
			&Renew{Role: name, Node: r.Node, Session: s.Sessions[r.Node].ID, Generation: s.Generation, Epoch: r.Epoch, Policy: Hold, Nonce: r.Nonce + 1})
	}
	for id, p := range s.Plans {
		ref := StepRef{Plan: id}
		if p.Phase == PlanAborting {
			ref.Step, ref.Undo, _ = p.CurrentUndo()
		} else {
			ref.Step, _ = p.Current()
		}
		list = append(list, &StartStep{Step: ref}, &RetryTask{Step: ref}, &AbortPlan{Plan: id}, &FinishPlan{Plan: id}, &SupersedePlan{Plan: id},
			&DrainRoles{Step: ref}, &GrantRoles{Step: ref, To: p.To}, &StartLink{Step: ref, Kind: StepLinkStart, Link: LinkOf(p.From, p.To), After: LinkOf(p.From, p.To)})
	}
	for id, tk := range s.Tasks {
		list = append(list, &ClaimTask{Task: id, Attempt: tk.Attempt}, &FinishTask{Task: id, Attempt: tk.Attempt, Session: tk.Claim.Session},
			&FailTask{Task: id, Attempt: tk.Attempt, Session: tk.Claim.Session})
	}
	for id, l := range s.Links {
		list = append(list, &EndLink{Link: id, Epoch: l.Epoch}, &JudgeLink{Link: id, Epoch: l.Epoch}, &FenceLink{Link: id, Epoch: l.Epoch},
			&NoteLink{Link: id, Epoch: l.Epoch, Topics: map[string]TopicPair{"t": {"a", "b"}}, Epochs: LeaderEpochs{"t": {0: 1}}},
			&TakeFill{Link: id, Epoch: l.Epoch, Nonce: "n", Above: max(0, l.Fill)}, &SettleFill{Link: id, Block: FillBlock(l.Fill)},
			&AcceptLoss{Link: id, Epoch: l.Epoch, Topic: "t", To: 1, Reason: "r"},
			&MarkDeleted{Link: id, Epoch: l.Epoch, Topic: "t", Pair: TopicPair{"a", "b"}}, &DropTombstone{Link: id, Epoch: l.Epoch, Topic: "t"})
	}
	for id, v := range s.Salvages {
		for topic, ps := range v.Orphans {
			for n := range ps {
				list = append(list, &NoteReplay{Salvage: id, Topic: topic, Partition: n, To: "us-east"})
			}
		}
	}
	for name := range s.Members {
		list = append(list, &OpenSession{Node: name, Session: "new"})
	}
	return append(list, &Configure{Was: s.Settings.Digest, Settings: settings("x"), Members: members()},
		&CreatePlan{ID: "new", Plan: Plan{Kind: Reseed, Hash: "h", Steps: []Step{{}}}}, &TakeSlot{Job: "j", Slot: storyStart})
}
