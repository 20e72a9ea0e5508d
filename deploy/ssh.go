package deploy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Runner runs a command and writes what it says to out.
type Runner func(ctx context.Context, c Command, out io.Writer) error

// ErrUnreachable is wrapped by the error of a host that ssh could not reach or that did not let it in.
var ErrUnreachable = errors.New("cannot be reached")

// sshFailed is how ssh ends when it has itself failed, and not the command.
const sshFailed = 255

// SSH is the Runner that runs the OpenSSH client. The end of ctx ends it, and what it runs on the host
// reads the end of its input.
func SSH(ctx context.Context, c Command, out io.Writer) error {
	cmd := exec.CommandContext(ctx, "ssh", c.Args()...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second // a connection shared by ControlMaster may keep the pipes
	complaints := &tail{limit: 4 << 10}
	cmd.Stdout, cmd.Stderr = out, complaints
	switch {
	case c.Local != "":
		f, err := os.Open(c.Local)
		if err != nil {
			return err
		}
		defer f.Close()
		cmd.Stdin = f
	case c.Content != nil:
		cmd.Stdin = bytes.NewReader(c.Content)
	case c.Hold:
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer r.Close()
		defer w.Close()
		cmd.Stdin = r
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &exit) && exit.ExitCode() == sshFailed:
		return fmt.Errorf("%w: %s", ErrUnreachable, complaints.text(err))
	default:
		return fmt.Errorf("%s: %s", c.About, complaints.text(err))
	}
}

// tail keeps the last bytes written to it.
type tail struct {
	limit int
	kept  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	t.kept = t.kept[max(0, len(t.kept)-t.limit):]
	return len(p), nil
}

func (t *tail) text(err error) string {
	text := strings.TrimSpace(strings.ReplaceAll(string(t.kept), "\r", ""))
	if text == "" {
		return err.Error()
	}
	return strings.ReplaceAll(text, "\n", "\n    ")
}
