package objects

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// errShort: a store's answer cannot be what was asked for.
var errShort = errors.New("the answer of the store makes no sense")

// Object is one line of a list.
type Object struct {
	Key      string
	Bytes    int64
	Modified time.Time
}

// List names all objects below prefix whose keys come after the given one, in
// the store's order. More than max are ErrTooLarge: a list is complete, or it
// is an error.
func (b *Bucket) List(ctx context.Context, prefix, after string, max int) ([]Object, error) {
	var all []Object
	var token *string
	for {
		in := &s3.ListObjectsV2Input{Bucket: &b.c.Bucket, Prefix: b.key(prefix), ContinuationToken: token}
		if after != "" {
			in.StartAfter = b.key(after)
		}
		var out *s3.ListObjectsV2Output
		err := b.again(ctx, "list", prefix, func(ctx context.Context) (err error) {
			out, err = b.client.ListObjectsV2(ctx, in)
			return err
		})
		if err != nil {
			return nil, err
		}
		short := func(what string) error {
			return fmt.Errorf("%s: list %s: %w: %s", b.c.Name, b.at(prefix), errShort, what)
		}
		if out.KeyCount != nil && int(*out.KeyCount) != len(out.Contents) {
			return nil, short(fmt.Sprintf("a page of %d names holds %d", *out.KeyCount, len(out.Contents)))
		}
		for _, o := range out.Contents {
			key, ok := strings.CutPrefix(aws.ToString(o.Key), b.c.Prefix)
			if !ok || !strings.HasPrefix(key, prefix) {
				return nil, short(fmt.Sprintf("it names %q", aws.ToString(o.Key)))
			}
			all = append(all, Object{Key: key, Bytes: aws.ToInt64(o.Size), Modified: aws.ToTime(o.LastModified)})
		}
		if len(all) > max {
			return nil, fmt.Errorf("%s: list %s: %w: more than %d objects", b.c.Name, b.at(prefix), ErrTooLarge, max)
		}
		if !aws.ToBool(out.IsTruncated) {
			return all, nil
		}
		next := aws.ToString(out.NextContinuationToken)
		if next == "" || next == aws.ToString(token) || len(out.Contents) == 0 {
			return nil, short("it says that there is more, and not where")
		}
		token = &next
	}
}

// Delete removes an object. That it is not there is no error.
func (b *Bucket) Delete(ctx context.Context, key string) error {
	err := b.again(ctx, "delete", key, func(ctx context.Context) error {
		_, err := b.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &b.c.Bucket, Key: b.key(key)})
		return err
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}
