package actor

import (
	"context"
	"fmt"
	"os"

	"github.com/hashicorp/go-hclog"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// Ledger is a Publisher that writes down what the bus has acknowledged: a line of
// message id and digest for each chunk, so that somebody else can tell whether the
// replay has it, and unchanged. A line is there at the latest when the process
// that wrote it has been killed, and may lack where it was killed before.
type Ledger struct {
	Publisher
	file *os.File
	log  hclog.Logger
}

// OpenLedger appends to the file at path what goes to a publisher.
func OpenLedger(path string, to Publisher, log hclog.Logger) (*Ledger, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return &Ledger{to, f, log}, nil
}

// PublishChunk publishes and, once that is acknowledged, writes its line before it
// tells done.
func (l *Ledger) PublishChunk(ctx context.Context, c *protocol.Chunk, done func(seq uint64, err error)) error {
	sum, err := c.Digest()
	if err != nil {
		return err
	}
	line := fmt.Sprintf("%s %x\n", c.MessageID(), sum)
	return l.Publisher.PublishChunk(ctx, c, func(seq uint64, err error) {
		if err == nil {
			if _, writeErr := l.file.WriteString(line); writeErr != nil { // one write each, at the end
				l.log.Error("an acknowledged chunk is missing in the ledger", "error", writeErr)
			}
		}
		done(seq, err)
	})
}

// Close closes the file. Nothing may be under way.
func (l *Ledger) Close() error { return l.file.Close() }
