package protocol

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// MaxCurves is the largest record of a run's curves in bytes: 64 curves of 200
// points are 450 KB.
const MaxCurves = 512 << 10

// PutCurves stores the run's curves so far, opaque bytes here, over those before.
func (b *Bus) PutCurves(ctx context.Context, curves []byte) error {
	if len(curves) > MaxCurves {
		return fmt.Errorf("curves of %d bytes, at most %d: %w", len(curves), MaxCurves, ErrTooLarge)
	}
	kv, err := b.js.KeyValue(ctx, bucketCurves)
	if err == nil {
		_, err = kv.Put(ctx, b.cfg.Run, curves)
	}
	if err != nil {
		return fmt.Errorf("store curves: %w", b.cause(err))
	}
	return nil
}

// GetCurves returns the curves of a run, nil where there are none, and a number
// that rises with each change. They are not checked.
func (b *Bus) GetCurves(ctx context.Context, run string) (curves []byte, revision uint64, err error) {
	if err := checkName("run", run); err != nil {
		return nil, 0, fmt.Errorf("read curves: %w", err)
	}
	kv, err := b.js.KeyValue(ctx, bucketCurves)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read curves: %w", b.cause(err))
	}
	entry, err := kv.Get(ctx, run)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("read curves: %w", b.cause(err))
	}
	return entry.Value(), entry.Revision(), nil
}
