package dispatch

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Record is one line of the audit log.
type Record struct {
	Time      time.Time
	Stream    string
	Job       string
	Size      int64
	Stage     Stage
	Version   uint64
	Advice    int
	Reference int
	Server    int
	Decider   string
	Reason    Reason
	Surprise  float64 // as a multiple of what is usual; 0: none
}

// maxUnwritten bounds what the audit log has yet to write, some 100 000 records.
const maxUnwritten = 32 << 20

// errBehind: the disk does not keep up.
var errBehind = errors.New("the audit log is behind by more than it may be")

// audit is the log of decisions: JSON lines in files that are only appended to,
// audit-000001.jsonl and so on. Lines are handed to the system at once when there is
// nothing else to do and synced to the disk at the plan's interval, when a file is
// full and at the end, so that a crash of the program loses what was decided in the
// last moment, and one of the machine what was in that interval. A last line without
// its end was torn by one.
type audit struct {
	dir  string
	plan AuditPlan

	mu      sync.Mutex
	pending []byte
	err     error // why nothing is written any more
	more    chan struct{}

	file   *os.File
	number int
	size   int64
}

func auditName(dir string, number int) string {
	return filepath.Join(dir, fmt.Sprintf("audit-%06d.jsonl", number))
}

// auditFiles are the numbers of the files in a folder, rising.
func auditFiles(dir string) ([]int, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "audit-*.jsonl"))
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, path := range paths {
		text := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "audit-"), ".jsonl")
		if n, err := strconv.Atoi(text); err == nil && n > 0 {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// openAudit begins a new file, after those of earlier lives.
func openAudit(dir string, plan AuditPlan) (*audit, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	numbers, err := auditFiles(dir)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	a := &audit{dir: dir, plan: plan, more: make(chan struct{}, 1)}
	if len(numbers) > 0 {
		a.number = numbers[len(numbers)-1]
	}
	if err := a.rotate(); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return a, nil
}

// add records a decision. After an error none is recorded any more.
func (a *audit) add(r *Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return
	}
	if len(a.pending) > maxUnwritten {
		a.err = errBehind
		return
	}
	a.pending = r.appendTo(a.pending)
	select {
	case a.more <- struct{}{}:
	default:
	}
}

// failed returns why decisions are not recorded, or nil. Once the disk has caught
// up, they are again.
func (a *audit) failed() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

func (r *Record) appendTo(b []byte) []byte {
	b = append(b, `{"time":"`...)
	b = r.Time.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z")
	b = append(b, `","stream":`...)
	b = appendJSON(b, r.Stream)
	b = append(b, `,"job":`...)
	b = appendJSON(b, r.Job)
	b = strconv.AppendInt(append(b, `,"size":`...), r.Size, 10)
	b = append(append(b, `,"stage":"`...), r.Stage...)
	b = strconv.AppendUint(append(b, `","version":`...), r.Version, 10)
	b = strconv.AppendInt(append(b, `,"advice":`...), int64(r.Advice), 10)
	b = strconv.AppendInt(append(b, `,"reference":`...), int64(r.Reference), 10)
	b = strconv.AppendInt(append(b, `,"server":`...), int64(r.Server), 10)
	b = append(append(b, `,"decider":"`...), r.Decider...)
	if r.Reason != "" {
		b = append(append(b, `","reason":"`...), r.Reason...)
	}
	b = append(b, '"')
	if r.Surprise > 0 {
		b = strconv.AppendFloat(append(b, `,"surprise":`...), r.Surprise, 'g', 6, 64)
	}
	return append(b, "}\n"...)
}

// appendJSON quotes a string; what is no UTF-8 becomes U+FFFD.
func appendJSON(b []byte, s string) []byte {
	b = append(b, '"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case c < ' ':
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = utf8.AppendRune(b, c)
		}
	}
	return append(b, '"')
}

// run writes until done is closed, and then what is left.
func (a *audit) run(done <-chan struct{}, ticks <-chan time.Time) error {
	dirty := false
	for {
		select {
		case <-a.more:
			a.note(a.write())
			dirty = true
		case <-ticks:
			if err := a.failed(); err != nil && err != errBehind {
				a.recover()
			} else if dirty {
				a.note(a.file.Sync())
			}
			dirty = false
		case <-done:
			return errors.Join(a.write(), a.file.Sync(), a.file.Close())
		}
	}
}

// recover tries a new file, after one that could not be written.
func (a *audit) recover() {
	_ = a.file.Close() // what it has to say is known
	err := a.rotate()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

// note remembers why writing failed, or that it works again.
func (a *audit) note(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil || a.err == errBehind {
		a.err = err
	}
}

func (a *audit) write() error {
	a.mu.Lock()
	lines := a.pending
	a.pending = nil
	a.mu.Unlock()
	for len(lines) > 0 {
		part := lines
		if room := a.plan.Bytes - a.size; int64(len(part)) > room {
			part = part[:bytes.LastIndexByte(part[:max(room, 0)], '\n')+1] // whole lines
		}
		if len(part) == 0 {
			if err := errors.Join(a.file.Sync(), a.file.Close(), a.rotate()); err != nil {
				return err
			}
			continue
		}
		n, err := a.file.Write(part)
		a.size += int64(n)
		if err != nil {
			return err
		}
		lines = lines[len(part):]
	}
	return nil
}

// rotate begins the next file and removes those beyond the number that is kept.
func (a *audit) rotate() error {
	a.number++
	f, err := os.OpenFile(auditName(a.dir, a.number), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	a.file, a.size = f, 0
	numbers, err := auditFiles(a.dir)
	if err != nil {
		return err
	}
	for _, old := range numbers[:max(0, len(numbers)-a.plan.Files)] {
		if err := os.Remove(auditName(a.dir, old)); err != nil {
			return err
		}
	}
	return nil
}

// maxAuditLine bounds a line of an audit log.
const maxAuditLine = 4 << 10

// ReadSurprise returns the surprise of each decision in a file of an audit log that
// has any. A torn last line is left out.
func ReadSurprise(path string) ([]float64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var values []float64
	in := bufio.NewReaderSize(f, maxAuditLine)
	for number := 1; ; number++ {
		line, err := in.ReadSlice('\n')
		if err == io.EOF {
			return values, nil
		}
		var record struct{ Surprise float64 }
		if err == nil {
			err = json.Unmarshal(line, &record)
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: no line of an audit log: %w", path, number, err)
		}
		if record.Surprise > 0 {
			values = append(values, record.Surprise)
		}
	}
}
