package protocol

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

// ErrNoCheckpoint says that the run has none on the bus.
var ErrNoCheckpoint = errors.New("no checkpoint")

// PutCheckpoint stores what r gives as the run's newest checkpoint and then
// deletes all but the newest keep (at least 1). The object's name
// run/version-epoch-random is never used twice: an object overwritten under readers
// tears. The pointer moves only after the object is complete, and not for a learner
// after which another has moved it: then the error wraps ErrLeaseLost. It wraps
// ErrStalled when the servers took nothing for BusConfig.StallTimeout.
func (l *Lease) PutCheckpoint(ctx context.Context, version uint64, r io.Reader, keep int) error {
	name := fmt.Sprintf("%s/%012d-%d-%08x", l.bus.cfg.Run, version, l.epoch, rand.Uint32())
	err := l.check()
	if err == nil {
		err = l.putCheckpoint(ctx, name, r, max(1, keep))
	}
	if err != nil {
		return fmt.Errorf("store checkpoint %s: %w", name, l.bus.cause(err))
	}
	return nil
}

func (l *Lease) putCheckpoint(ctx context.Context, name string, r io.Reader, keep int) error {
	objects, err := l.bus.openCheckpoints(ctx)
	if err != nil {
		return err
	}
	t := l.bus.newTransfer(ctx)
	return t.end(l.store(t, objects, name, r, keep))
}

func (l *Lease) store(ctx *transfer, objects jetstream.ObjectStore, name string, r io.Reader, keep int) error {
	b := l.bus
	if _, err := objects.Put(ctx, jetstream.ObjectMeta{Name: name}, ctx.reader(r)); err != nil {
		return err
	}
	ctx.passed()
	if err := l.point(ctx, name); err != nil {
		return errors.Join(err, objects.Delete(ctx, name))
	}
	infos, err := objects.List(ctx)
	if err != nil {
		return err
	}
	infos = slices.DeleteFunc(infos, func(i *jetstream.ObjectInfo) bool { return !strings.HasPrefix(i.Name, b.cfg.Run+"/") })
	// By epoch and version, since times are those of servers whose clocks may jump.
	slices.SortFunc(infos, func(x, y *jetstream.ObjectInfo) int {
		p, _ := b.pointerOf(x.Name) // what has no such name is the oldest
		q, _ := b.pointerOf(y.Name)
		return cmp.Or(cmp.Compare(p.epoch, q.epoch), cmp.Compare(p.version, q.version))
	})
	for _, old := range infos[:max(0, len(infos)-keep)] {
		if old.Name == name {
			continue // a version before those that are there is the newest all the same
		}
		if err := objects.Delete(ctx, old.Name); err != nil {
			return fmt.Errorf("delete %s: %w", old.Name, err)
		}
		ctx.passed()
	}
	return nil
}

// openCheckpoints makes the object store where there is none, and waits until it takes
// objects: what fails after that may have taken a part of the reader.
func (b *Bus) openCheckpoints(ctx context.Context) (jetstream.ObjectStore, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	stream := b.checkpointStream()
	if err := b.settle(ctx, stream); err != nil {
		return nil, err
	}
	probe := "$O." + storeCkpt + ".M.none"
	if err := b.answered(ctx, canRead(stream.Name, probe), canWrite(probe)); err != nil {
		return nil, err
	}
	return b.js.ObjectStore(ctx, storeCkpt)
}

// point makes an object the run's newest checkpoint.
func (l *Lease) point(ctx context.Context, name string) error {
	kv, err := l.bus.js.KeyValue(ctx, bucketCfg)
	if err != nil {
		return err
	}
	for {
		have, revision, err := l.bus.checkpointPointer(ctx, kv)
		switch {
		case err != nil && !errors.Is(err, ErrNoCheckpoint):
			return err
		case have.epoch > l.epoch:
			return ErrLeaseLost
		}
		_, err = kv.Update(ctx, l.bus.cfg.Run+".checkpoint", []byte(name), revision)
		if !errors.Is(err, jetstream.ErrKeyRevisionMismatch) { // read from a server that is behind, or moved meanwhile
			return err
		}
		if err := pause(ctx, reconnectWait); err != nil {
			return err
		}
	}
}

// pointer is what the name of a checkpoint's object tells.
type pointer struct {
	name           string
	version, epoch uint64 // the epoch is 0 where the name was written without one
}

func (b *Bus) checkpointPointer(ctx context.Context, kv jetstream.KeyValue) (p pointer, revision uint64, err error) {
	entry, err := kv.Get(ctx, b.cfg.Run+".checkpoint")
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return p, 0, ErrNoCheckpoint
	}
	if err != nil {
		return p, 0, err
	}
	if p, err = b.pointerOf(string(entry.Value())); err != nil {
		return p, 0, err
	}
	return p, entry.Revision(), nil
}

func (b *Bus) pointerOf(name string) (p pointer, err error) {
	p.name = name
	base, ok := strings.CutPrefix(name, b.cfg.Run+"/")
	number, rest, _ := strings.Cut(base, "-")
	p.version, err = strconv.ParseUint(number, 10, 63)
	if epoch, _, found := strings.Cut(rest, "-"); found && err == nil {
		p.epoch, err = strconv.ParseUint(epoch, 10, 63)
	}
	if !ok || err != nil {
		return p, fmt.Errorf("pointer names %.80q: %w", name, ErrCorrupt)
	}
	return p, nil
}

// NewestCheckpoint returns the version that GetCheckpoint would.
func (b *Bus) NewestCheckpoint(ctx context.Context) (version uint64, err error) {
	kv, err := b.js.KeyValue(ctx, bucketCfg)
	if err == nil {
		var p pointer
		p, _, err = b.checkpointPointer(ctx, kv)
		version = p.version
	}
	if err != nil {
		return 0, fmt.Errorf("newest checkpoint of run %s: %w", b.cfg.Run, b.cause(err))
	}
	return version, nil
}

// GetCheckpoint writes the run's newest checkpoint to w and returns its
// version. After an error what was written is worth nothing: the digest is
// known to be right only at the end. Without a checkpoint the error wraps
// ErrNoCheckpoint, and ErrStalled when nothing came for BusConfig.StallTimeout.
func (b *Bus) GetCheckpoint(ctx context.Context, w io.Writer) (version uint64, err error) {
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
	newest, _, err := b.checkpointPointer(ctx, kv)
	if err != nil {
		return 0, err
	}
	objects, err := b.js.ObjectStore(ctx, storeCkpt)
	if err != nil {
		return 0, err
	}
	if err := b.answered(ctx, canRead(b.checkpointStream().Name, "$O."+storeCkpt+".M.none")); err != nil {
		return 0, err
	}
	t := b.newTransfer(ctx)
	object, err := objects.Get(t, newest.name)
	if err == nil {
		_, err = io.Copy(t.writer(w), object) // verifies size and SHA-256 at the end
		err = errors.Join(err, object.Close())
	}
	return newest.version, t.end(err)
}
