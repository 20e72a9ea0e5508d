package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
)

// Fleet is what is done to the hosts of an inventory.
type Fleet struct {
	Inventory *Inventory
	Hosts     []Host   // of the inventory, those that are meant
	Roles     []string // of theirs, those that are meant; empty: all
	Run       Runner
	Parallel  int // hosts at a time
	DryRun    bool
	Out       io.Writer

	mu sync.Mutex // of Out
}

// maxTold bounds what a host may say when it is asked what is there: 1024 units have 200 KB.
const maxTold = 1 << 20

// each does something on every host, several at a time. A host that fails is told of at the end; it
// keeps no other from being done.
func (f *Fleet) each(ctx context.Context, do func(ctx context.Context, h Host) error) error {
	errs := make([]error, len(f.Hosts))
	var group errgroup.Group
	group.SetLimit(f.Parallel)
	for i, h := range f.Hosts {
		group.Go(func() error {
			if errs[i] = ctx.Err(); errs[i] == nil {
				errs[i] = do(ctx, h)
			}
			return nil
		})
	}
	_ = group.Wait() // it is given no error
	if err := ctx.Err(); err != nil {
		return err
	}
	return failures(f.Hosts, errs)
}

func failures(hosts []Host, errs []error) error {
	var failed []error
	for i, err := range errs {
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", hosts[i].Name, err))
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d hosts failed:\n%w", len(failed), len(hosts), errors.Join(failed...))
}

// say writes what one host has to say in one piece.
func (f *Fleet) say(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, err := fmt.Fprintf(f.Out, format, args...)
	return err
}

// observe asks a host what is there.
func (f *Fleet) observe(ctx context.Context, h Host) (Have, error) {
	told := &bounded{limit: maxTold}
	if err := f.Run(ctx, observation(h, f.Inventory.Folder), told); err != nil {
		return Have{}, err
	}
	return parseHave(told.Bytes())
}

// perform runs commands in their order, or prints them, and says what was done.
func (f *Fleet) perform(ctx context.Context, h Host, commands []Command) error {
	if f.DryRun {
		var text strings.Builder
		for _, c := range commands {
			fmt.Fprintln(&text, c)
		}
		return f.say("%s", text.String())
	}
	for _, c := range commands {
		out := &bounded{limit: maxTold}
		if err := f.Run(ctx, c, out); err != nil {
			return err
		}
		if err := f.say("%s: %s\n%s", h.Name, c.About, out.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// Launch makes every host what the inventory says.
func (f *Fleet) Launch(ctx context.Context, s *Sources) error {
	return f.each(ctx, func(ctx context.Context, h Host) error {
		have, err := f.observe(ctx, h)
		if err != nil {
			return err
		}
		want, err := s.Want(h, have.Arch)
		if err != nil {
			return err
		}
		commands := Plan(h, f.Inventory.Folder, want, have, f.Roles)
		if len(commands) == 0 {
			note := ""
			if f.DryRun {
				note = "# " // what is printed can be pasted
			}
			return f.say("%s%s: nothing to do\n", note, h.Name)
		}
		return f.perform(ctx, h, commands)
	})
}

// Stop ends what runs: first everything but the servers, which the others save to, on all hosts, and
// then the servers.
func (f *Fleet) Stop(ctx context.Context) error {
	servers := []Host{}
	var mu sync.Mutex
	err := f.each(ctx, func(ctx context.Context, h Host) error {
		have, err := f.observe(ctx, h)
		if err != nil {
			return err
		}
		units := f.chosen(have)
		if slices.Contains(units, RoleNATS) {
			units = slices.DeleteFunc(units, func(u string) bool { return u == RoleNATS })
			mu.Lock()
			servers = append(servers, h)
			mu.Unlock()
		} else if len(units) == 0 {
			return f.say("# %s: nothing runs\n", h.Name)
		}
		if len(units) == 0 {
			return nil
		}
		return f.perform(ctx, h, []Command{stopping(h, f.Inventory.Folder, units)})
	})
	if ctx.Err() != nil {
		return err
	}
	last := &Fleet{Inventory: f.Inventory, Hosts: servers, Run: f.Run, Parallel: f.Parallel, DryRun: f.DryRun, Out: f.Out}
	return errors.Join(err, last.each(ctx, func(ctx context.Context, h Host) error {
		return last.perform(ctx, h, []Command{stopping(h, f.Inventory.Folder, []string{RoleNATS})})
	}))
}

// Restart ends what has been started and starts it again, with the files that are there.
func (f *Fleet) Restart(ctx context.Context) error {
	return f.each(ctx, func(ctx context.Context, h Host) error {
		have, err := f.observe(ctx, h)
		if err != nil {
			return err
		}
		units := f.chosen(have)
		if len(units) == 0 {
			return f.say("# %s: nothing to restart\n", h.Name)
		}
		return f.perform(ctx, h, []Command{starting(h, f.Inventory.Folder, units)})
	})
}

// Logs shows the last lines of the units' logs, each with its host and unit, and if follow what comes
// after them, until ctx ends.
func (f *Fleet) Logs(ctx context.Context, lines int, follow bool) error {
	if follow {
		f.Parallel = len(f.Hosts)
	}
	return f.each(ctx, func(ctx context.Context, h Host) error {
		have, err := f.observe(ctx, h)
		if err != nil {
			return err
		}
		units := f.chosen(have)
		if len(units) == 0 {
			return nil
		}
		words := []string{"sh", "host.sh", "logs", strconv.Itoa(lines)}
		if follow {
			words = append(words, "follow")
		}
		c := within(h, f.Inventory.Folder, "logs", append(words, units...)...)
		c.Hold = follow
		out := &prefixed{prefix: h.Name + " ", write: func(line []byte) error { return f.say("%s", line) }}
		return f.Run(ctx, c, out)
	})
}

// chosen lists the units of a host that are meant.
func (f *Fleet) chosen(have Have) []string {
	return slices.DeleteFunc(sortedUnits(have.Units), func(u string) bool {
		return len(f.Roles) > 0 && !slices.Contains(f.Roles, roleOf(u))
	})
}

// bounded keeps what is written to it, up to a limit.
type bounded struct {
	bytes.Buffer
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		return 0, fmt.Errorf("the host says more than %d bytes", b.limit)
	}
	return b.Buffer.Write(p)
}

// prefixed hands on whole lines under a prefix; one without an end is cut at 64 KB.
type prefixed struct {
	prefix string
	rest   []byte
	write  func(line []byte) error
}

func (p *prefixed) Write(text []byte) (int, error) {
	p.rest = append(p.rest, text...)
	for {
		end := bytes.IndexByte(p.rest, '\n')
		if end < 0 && len(p.rest) < 64<<10 {
			return len(text), nil
		}
		if end < 0 {
			end = len(p.rest) - 1
		}
		line := append([]byte(p.prefix), p.rest[:end]...)
		if err := p.write(append(line, '\n')); err != nil {
			return 0, err
		}
		p.rest = p.rest[end+1:]
	}
}
