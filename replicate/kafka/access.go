package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/holdfast-dr/holdfast/internal/kafka"
	"github.com/holdfast-dr/holdfast/replicate"
)

// accessChunk is how many rules one request adds or takes away.
const accessChunk = 500

// ErrNoAuthorizer says that a cluster has no authorizer: it keeps no rules, and
// whoever reaches it may do everything.
var ErrNoAuthorizer = errors.New("the cluster has no authorizer: whoever reaches it may do everything")

// ErrRightsUnread says that a cluster does not tell us its rules.
var ErrRightsUnread = errors.New("the cluster does not tell its rules; may holdfast's user describe the cluster?")

// Access reads all rules of a cluster's authorizer, or fails. A cluster without
// one gives ErrNoAuthorizer.
func Access(ctx context.Context, cl *kafka.Client) ([]replicate.ACL, error) {
	req := kmsg.NewPtrDescribeACLsRequest()
	req.ResourceType, req.ResourcePatternType = kmsg.ACLResourceTypeAny, kmsg.ACLResourcePatternTypeAny
	req.Operation, req.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
	resp, err := req.RequestWith(ctx, cl.Kgo)
	if err == nil {
		err = said(resp.ErrorCode, resp.ErrorMessage)
	}
	switch {
	case errors.Is(err, kerr.SecurityDisabled):
		return nil, fmt.Errorf("kafka %s: %w", cl.Name(), ErrNoAuthorizer)
	case errors.Is(err, kerr.ClusterAuthorizationFailed):
		return nil, fmt.Errorf("kafka %s: %w", cl.Name(), ErrRightsUnread)
	case err != nil:
		return nil, fmt.Errorf("read the rights of kafka %s: %w", cl.Name(), err)
	}
	var out []replicate.ACL
	for _, r := range resp.Resources {
		for _, a := range r.ACLs {
			out = append(out, replicate.ACL{
				Resource: r.ResourceType.String(), Pattern: r.ResourcePatternType.String(), Name: r.ResourceName,
				Principal: a.Principal, Host: a.Host, Operation: a.Operation.String(), Permission: a.PermissionType.String(),
			})
		}
	}
	return out, nil
}

// words are a rule in the numbers of the protocol.
type words struct {
	resource   kmsg.ACLResourceType
	pattern    kmsg.ACLResourcePatternType
	operation  kmsg.ACLOperation
	permission kmsg.ACLPermissionType
}

func wordsOf(a replicate.ACL) (w words, err error) {
	var errs [4]error
	w.resource, errs[0] = kmsg.ParseACLResourceType(a.Resource)
	w.pattern, errs[1] = kmsg.ParseACLResourcePatternType(a.Pattern)
	w.operation, errs[2] = kmsg.ParseACLOperation(a.Operation)
	w.permission, errs[3] = kmsg.ParseACLPermissionType(a.Permission)
	if err := errors.Join(errs[:]...); err != nil {
		return w, fmt.Errorf("rule %s: %w", a, err)
	}
	return w, nil
}

// grant makes the target's rules what the plan says, in its order. It stops at
// the first request that fails; what was done stays done and is seen in the
// next round. The rules that one request refuses are errors, not the end.
func grant(ctx context.Context, cl *kafka.Client, plan replicate.AccessPlan) error {
	var errs []error
	for rules := range slices.Chunk(plan.Create, accessChunk) {
		if err := createACLs(ctx, cl, rules); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...) // nothing is taken away while something could not be given
	}
	for rules := range slices.Chunk(plan.Delete, accessChunk) {
		if err := deleteACLs(ctx, cl, rules); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func createACLs(ctx context.Context, cl *kafka.Client, rules []replicate.ACL) error {
	req := kmsg.NewPtrCreateACLsRequest()
	for _, a := range rules {
		w, err := wordsOf(a)
		if err != nil {
			return err
		}
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceType, c.ResourceName, c.ResourcePatternType = w.resource, a.Name, w.pattern
		c.Principal, c.Host, c.Operation, c.PermissionType = a.Principal, a.Host, w.operation, w.permission
		req.Creations = append(req.Creations, c)
	}
	resp, err := req.RequestWith(ctx, cl.Kgo)
	if err != nil {
		return fmt.Errorf("add %d rules at kafka %s: %w", len(rules), cl.Name(), err)
	}
	var codes []error
	for _, r := range resp.Results {
		codes = append(codes, said(r.ErrorCode, r.ErrorMessage))
	}
	return firstRefused("add", cl, rules, codes)
}

func deleteACLs(ctx context.Context, cl *kafka.Client, rules []replicate.ACL) error {
	req := kmsg.NewPtrDeleteACLsRequest()
	for _, a := range rules {
		w, err := wordsOf(a)
		if err != nil {
			return err
		}
		f := kmsg.NewDeleteACLsRequestFilter() // of this very rule
		f.ResourceType, f.ResourceName, f.ResourcePatternType = w.resource, kmsg.StringPtr(a.Name), w.pattern
		f.Principal, f.Host, f.Operation, f.PermissionType = kmsg.StringPtr(a.Principal), kmsg.StringPtr(a.Host), w.operation, w.permission
		req.Filters = append(req.Filters, f)
	}
	resp, err := req.RequestWith(ctx, cl.Kgo)
	if err != nil {
		return fmt.Errorf("take %d rules away at kafka %s: %w", len(rules), cl.Name(), err)
	}
	var codes []error
	for _, r := range resp.Results {
		codes = append(codes, said(r.ErrorCode, r.ErrorMessage))
	}
	return firstRefused("take away", cl, rules, codes)
}

// firstRefused names the first rule that was refused, and how many were.
func firstRefused(act string, cl *kafka.Client, rules []replicate.ACL, codes []error) error {
	if len(codes) != len(rules) {
		return fmt.Errorf("%s %d rules at kafka %s: %d answers", act, len(rules), cl.Name(), len(codes))
	}
	var first error
	refused := 0
	for i, err := range codes {
		if err == nil {
			continue
		}
		if refused++; first == nil {
			first = fmt.Errorf("%s a rule at kafka %s (%s): %w", act, cl.Name(), rules[i], err)
		}
	}
	if refused > 1 {
		return fmt.Errorf("%w, and %d more", first, refused-1)
	}
	return first
}
