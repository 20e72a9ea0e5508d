package monitor

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Value is a named number to show.
type Value struct {
	Name  string
	Value float64
}

// Snapshot is the state of a run at one moment, as a Progress shows it.
type Snapshot struct {
	Run   string
	Phase string // what the run is doing, such as "filling the replay", "training" or "evaluating"

	Elapsed  time.Duration // since the start of the process
	Duration time.Duration // budget of Elapsed; 0 is no limit

	EnvSteps  int64 // of all parts of the run together
	StepLimit int64 // budget of EnvSteps; 0 is no limit

	TrainSteps int64
	Losses     []Value // in the order to show them
	Staleness  float64 // mean age of the parameters that acted in the replayed steps, in versions

	ReplaySteps    int64
	ReplayCapacity int64 // 0: there is no replay

	Evaluation *Evaluation // the latest, nil before the first
}

// Evaluation is the latest score of the policy.
type Evaluation struct {
	EnvSteps int64   // at which the policy was evaluated
	Ratio    float64 // IQM of mean job completion time over LEFT's on the same jobs
}

// ProgressConfig says how a Progress shows itself.
type ProgressConfig struct {
	Terminal bool       // redraw a few lines in place; otherwise write a plain line each time
	Width    func() int // columns of the terminal; lines are cut to them
}

// Progress shows the state of a run on a terminal or as plain lines. Text written through it
// appears above the display. Its methods may be called from several goroutines.
type Progress struct {
	out io.Writer
	cfg ProgressConfig

	mu      sync.Mutex
	lines   []string // on the terminal now
	history []moment // the last rateWindow, oldest first
	err     error
}

// moment is what rates are computed from.
type moment struct {
	elapsed         time.Duration
	env, trainSteps int64
}

// Rates are means over this time: long enough to be steady over a checkpoint or an evaluation
// that holds the loop up for seconds, short enough to follow the change from filling the replay
// to training.
const rateWindow = 20 * time.Second

// NewProgress shows nothing yet.
func NewProgress(out io.Writer, cfg ProgressConfig) *Progress {
	return &Progress{out: out, cfg: cfg}
}

// Run shows a snapshot at each tick until the context ends, and a last one then. It returns the
// first error of writing.
func (p *Progress) Run(ctx context.Context, ticks <-chan time.Time, snapshot func() Snapshot) error {
	p.begin(snapshot())
	for {
		select {
		case <-ctx.Done():
			return p.Show(snapshot())
		case <-ticks:
			if err := p.Show(snapshot()); err != nil {
				return err
			}
		}
	}
}

// begin has the first rates count from a snapshot.
func (p *Progress) begin(s Snapshot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.history = append(p.history, moment{s.Elapsed, s.EnvSteps, s.TrainSteps})
}

// Show replaces the display, or writes the next plain line.
func (p *Progress) Show(s Snapshot) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.history = append(p.history, moment{s.Elapsed, s.EnvSteps, s.TrainSteps})
	for len(p.history) > 2 && s.Elapsed-p.history[1].elapsed >= rateWindow {
		p.history = p.history[1:]
	}
	envRate, trainRate := p.rates()
	if !p.cfg.Terminal {
		p.write([]byte(plainLine(s, envRate, trainRate) + "\n"))
		return p.err
	}
	var out bytes.Buffer
	p.erase(&out)
	p.lines = display(s, envRate, trainRate)
	p.draw(&out)
	p.write(out.Bytes())
	return p.err
}

// Write puts text, such as log lines, above the display.
func (p *Progress) Write(text []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out bytes.Buffer
	p.erase(&out)
	out.Write(text)
	p.draw(&out)
	p.write(out.Bytes())
	if p.err != nil {
		return 0, p.err
	}
	return len(text), nil
}

func (p *Progress) write(text []byte) {
	if p.err == nil {
		if _, err := p.out.Write(text); err != nil {
			p.err = fmt.Errorf("show progress: %w", err)
		}
	}
}

// erase goes back to the display's first line and clears from there.
func (p *Progress) erase(out *bytes.Buffer) {
	if len(p.lines) > 0 {
		fmt.Fprintf(out, "\x1b[%dA\r\x1b[J", len(p.lines))
	}
}

// draw writes the display, each line cut to the terminal: a wrapped one would not be erased.
func (p *Progress) draw(out *bytes.Buffer) {
	width := 80
	if p.cfg.Width != nil && len(p.lines) > 0 {
		width = p.cfg.Width()
	}
	for _, line := range p.lines {
		if runes := []rune(line); width > 0 && len(runes) > width {
			line = string(runes[:width])
		}
		out.WriteString(line)
		out.WriteByte('\n')
	}
}

// rates returns steps a second over the history.
func (p *Progress) rates() (env, train float64) {
	first, last := p.history[0], p.history[len(p.history)-1]
	seconds := (last.elapsed - first.elapsed).Seconds()
	if seconds <= 0 {
		return 0, 0
	}
	return float64(last.env-first.env) / seconds, float64(last.trainSteps-first.trainSteps) / seconds
}

// timeLeft is the time until the first limit of the budget; ok is false where none can be told.
func timeLeft(s Snapshot, envRate float64) (left time.Duration, ok bool) {
	if s.Duration > 0 {
		left, ok = max(0, s.Duration-s.Elapsed), true
	}
	if s.StepLimit > 0 && envRate > 0 {
		seconds := max(0, float64(s.StepLimit-s.EnvSteps)/envRate)
		if bySteps := time.Duration(min(seconds, 1e9) * float64(time.Second)); !ok || bySteps < left {
			left, ok = bySteps, true
		}
	}
	return left, ok
}

// display is the state as lines of a terminal.
func display(s Snapshot, envRate, trainRate float64) []string {
	head := fmt.Sprintf("%s  %s  %s", s.Run, s.Phase, clock(s.Elapsed))
	if left, ok := timeLeft(s, envRate); ok {
		head += ", " + clock(left) + " left"
	}
	lines := []string{
		head,
		fmt.Sprintf("  environment  %s steps%s, %.0f/s", group(s.EnvSteps), of(s.StepLimit), envRate),
		fmt.Sprintf("  training     %s steps, %.1f/s", group(s.TrainSteps), trainRate),
	}
	if s.ReplayCapacity > 0 {
		lines[1] += fmt.Sprintf("; replay %s of %s", group(s.ReplaySteps), group(s.ReplayCapacity))
		lines[2] += fmt.Sprintf("; replayed steps were acted %.1f versions ago", s.Staleness)
	}
	if len(s.Losses) > 0 {
		lines = append(lines, "  losses       "+values(s.Losses, " ", ", "))
	}
	if s.Evaluation != nil {
		lines = append(lines, fmt.Sprintf("  evaluation   %.3f x LEFT at %s steps", s.Evaluation.Ratio, group(s.Evaluation.EnvSteps)))
	}
	return lines
}

// plainLine is the state as one line for logs and pipes.
func plainLine(s Snapshot, envRate, trainRate float64) string {
	line := fmt.Sprintf("%s %s env %d (%.0f/s) train %d (%.1f/s)", clock(s.Elapsed), s.Phase, s.EnvSteps, envRate, s.TrainSteps, trainRate)
	if len(s.Losses) > 0 {
		line += " " + values(s.Losses, "=", " ")
	}
	if s.ReplayCapacity > 0 {
		line += fmt.Sprintf(" staleness=%.1f replay=%d", s.Staleness, s.ReplaySteps)
	}
	if s.Evaluation != nil {
		line += fmt.Sprintf(" evaluation=%.3fxLEFT@%d", s.Evaluation.Ratio, s.Evaluation.EnvSteps)
	}
	if left, ok := timeLeft(s, envRate); ok {
		line += " left " + clock(left)
	}
	return line
}

func values(list []Value, between, separator string) string {
	items := make([]string, len(list))
	for i, v := range list {
		items[i] = v.Name + between + strconv.FormatFloat(v.Value, 'g', 4, 64)
	}
	return strings.Join(items, separator)
}

// clock writes a duration in whole seconds.
func clock(d time.Duration) string { return d.Truncate(time.Second).String() }

func of(limit int64) string {
	if limit == 0 {
		return ""
	}
	return " of " + group(limit)
}

// group writes a count with commas between thousands.
func group(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
