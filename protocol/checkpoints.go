package protocol

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrNoCheckpoint says that the run has none on the bus.
var ErrNoCheckpoint = errors.New("no checkpoint")

// checkpointTimeout bounds a transfer whose context has no deadline. Without
// any the library gives a whole read 5 s.
const checkpointTimeout = 10 * time.Minute

// PutCheckpoint stores what r gives as the run's newest checkpoint and then
// deletes all but the newest keep (at least 1). The object's name
// run/version-random is never used twice: an object overwritten under readers
// tears. The pointer moves only after the object is complete.
func (b *Bus) PutCheckpoint(ctx context.Context, version uint64, r io.Reader, keep int) error {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	name := fmt.Sprintf("%s/%012d-%08x", b.cfg.Run, version, rand.Uint32())
	if err := b.putCheckpoint(ctx, name, r, max(1, keep)); err != nil {
		return fmt.Errorf("store checkpoint %s: %w", name, b.cause(err))
	}
	return nil
}

func (b *Bus) putCheckpoint(ctx context.Context, name string, r io.Reader, keep int) error {
	if err := b.ensureStream(ctx, b.checkpointStream()); err != nil {
		return err
	}
	objects, err := b.js.ObjectStore(ctx, storeCkpt)
	if err != nil {
		return err
	}
	kv, err := b.js.KeyValue(ctx, bucketCfg)
	if err != nil {
		return err
	}
	if _, err := objects.Put(ctx, jetstream.ObjectMeta{Name: name}, r); err != nil {
		return err
	}
	if _, err := kv.PutString(ctx, b.cfg.Run+".checkpoint", name); err != nil {
		return err
	}
	infos, err := objects.List(ctx)
	if err != nil {
		return err
	}
	infos = slices.DeleteFunc(infos, func(i *jetstream.ObjectInfo) bool { return !strings.HasPrefix(i.Name, b.cfg.Run+"/") })
	slices.SortFunc(infos, func(x, y *jetstream.ObjectInfo) int { return x.ModTime.Compare(y.ModTime) })
	for _, old := range infos[:max(0, len(infos)-keep)] {
		if err := objects.Delete(ctx, old.Name); err != nil {
			return fmt.Errorf("delete %s: %w", old.Name, err)
		}
	}
	return nil
}

// GetCheckpoint writes the run's newest checkpoint to w and returns its
// version. After an error what was written is worth nothing: the digest is
// known to be right only at the end. Without a checkpoint the error wraps
// ErrNoCheckpoint.
func (b *Bus) GetCheckpoint(ctx context.Context, w io.Writer) (version uint64, err error) {
	ctx, cancel := withTimeout(ctx)
	defer cancel()
	version, err = b.getCheckpoint(ctx, w)
	if err != nil {
		return 0, fmt.Errorf("fetch checkpoint of run %s: %w", b.cfg.Run, b.cause(err))
	}
	return version, nil
}

func (b *Bus) getCheckpoint(ctx context.Context, w io.Writer) (version uint64, err error) {
	kv, err := b.js.KeyValue(ctx, bucketCfg)
	if err != nil {
		return 0, err
	}
	entry, err := kv.Get(ctx, b.cfg.Run+".checkpoint")
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, ErrNoCheckpoint
	}
	if err != nil {
		return 0, err
	}
	name := string(entry.Value())
	base, ok := strings.CutPrefix(name, b.cfg.Run+"/")
	if _, err := fmt.Sscanf(base, "%d-", &version); !ok || err != nil {
		return 0, fmt.Errorf("pointer names %.80q: %w", name, ErrCorrupt)
	}
	objects, err := b.js.ObjectStore(ctx, storeCkpt)
	if err != nil {
		return 0, err
	}
	object, err := objects.Get(ctx, name)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(w, object) // verifies size and SHA-256 at the end
	return version, errors.Join(err, object.Close())
}

func withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, checkpointTimeout)
}
