package kafka

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/replicate"
)

// CopyState says what may be done with the copy of a topic that was deleted at
// the source.
type CopyState string

// The states of a copy.
const (
	CopyKept      CopyState = "kept"      // the source lacks the topic, and the target has the very copy
	CopyBack      CopyState = "back"      // the source has the very topic again: it was never gone
	CopyRecreated CopyState = "recreated" // the source has another topic of this name
	CopyGone      CopyState = "gone"      // the target has no such copy: deleted, or made anew
	CopyHidden    CopyState = "hidden"    // the source will not say whether it has the topic
)

// LookAtCopies looks at both clusters now. What it can not tell for certain is
// an error, or CopyHidden.
func LookAtCopies(ctx context.Context, source, target *kafka.Client, copies map[string]TopicIDs) (map[string]CopyState, error) {
	from, err := readView(ctx, source)
	if err != nil {
		return nil, err
	}
	to, err := readView(ctx, target)
	if err != nil {
		return nil, err
	}
	out := map[string]CopyState{}
	var ask []string
	for name, ids := range copies {
		there, here := from.topics[name], to.topics[name]
		switch {
		case here == nil || here.id != ids.Target:
			out[name] = CopyGone
		case there == nil:
			ask = append(ask, name)
		case there.id == ids.Source:
			out[name] = CopyBack
		default:
			out[name] = CopyRecreated
		}
	}
	if len(ask) == 0 {
		return out, nil
	}
	// Not listed may mean not shown to us.
	answers, err := presence(ctx, source, ask)
	if err != nil {
		return nil, err
	}
	for _, name := range ask {
		out[name] = CopyHidden
		if answers[name] == absent {
			out[name] = CopyKept
		}
	}
	return out, nil
}

// DeleteCopy deletes a topic by its identity: should somebody have made another
// one of its name meanwhile, nothing happens. A copy that is gone is no error.
func DeleteCopy(ctx context.Context, target *kafka.Client, topic string, id replicate.TopicID) error {
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis = changesMillis
	t := kmsg.NewDeleteTopicsRequestTopic()
	t.TopicID = id // and no name: from version 6 on a broker takes the identity
	req.Topics = append(req.Topics, t)
	req.TopicNames = nil
	resp, err := req.RequestWith(ctx, target.Kgo)
	if err == nil && len(resp.Topics) != 1 {
		err = errNoAnswer
	}
	if err == nil {
		err = said(resp.Topics[0].ErrorCode, resp.Topics[0].ErrorMessage)
	}
	if err != nil && !errors.Is(err, kerr.UnknownTopicID) {
		return fmt.Errorf("delete topic %s (%s) in kafka %s: %w", topic, id, target.Name(), err)
	}
	return nil
}
