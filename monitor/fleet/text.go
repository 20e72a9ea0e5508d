package fleet

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// Screen is what a text has to fit.
type Screen struct {
	Width int // columns; longer lines are cut
	Rows  int // processes beyond are left out and counted; 0: all are shown
}

// tableHead is what is shown of a run above its processes, without problems.
const tableHead = 10

// WriteText writes the state for a terminal, a screen at most.
func WriteText(w io.Writer, s State, screen Screen) error {
	var out bytes.Buffer
	if len(s.Runs) == 0 {
		fmt.Fprintln(&out, "No process of any run is heard on this bus.")
	}
	rows := 0
	if screen.Rows > 0 {
		rows = max(3, screen.Rows/max(1, len(s.Runs))-tableHead)
	}
	for i, r := range s.Runs {
		if i > 0 {
			fmt.Fprintln(&out)
		}
		r.write(&out, s.Time, rows)
	}
	for line := range strings.Lines(out.String()) {
		if _, err := fmt.Fprintln(w, cut(printable(strings.TrimRight(line, "\n ")), screen.Width)); err != nil {
			return fmt.Errorf("write status: %w", err)
		}
	}
	return nil
}

func (r *Run) write(out *bytes.Buffer, now time.Time, rows int) {
	head := []string{r.Name}
	if r.Phase != "" {
		head = append(head, r.Phase)
	}
	l, s := r.Learner(), r.Replay()
	if l != nil {
		head = append(head, seconds(l.ElapsedSeconds))
	}
	if r.SecondsLeft > 0 {
		head = append(head, seconds(r.SecondsLeft)+" left")
	}
	head = append(head, r.Health)
	fmt.Fprintf(out, "%s  (%s)\n", strings.Join(head, "  "), now.Format(time.TimeOnly))
	limit := ""
	if l != nil && l.StepLimit > 0 {
		limit = " of " + group(l.StepLimit)
	}
	fmt.Fprintf(out, "  environment  %s steps%s, %s/s\n", group(r.EnvSteps), limit, short(r.StepsPerSecond))
	if l != nil {
		fmt.Fprintf(out, "  training     %s updates, %s/s; parameters %d, replayed %s versions old\n",
			group(r.Updates), short(r.UpdatesPerSecond), r.ParamVersion, short(r.Staleness))
		var losses []string
		for _, name := range slices.Sorted(maps.Keys(l.Metrics)) {
			if loss, ok := strings.CutPrefix(name, "loss/"); ok {
				losses = append(losses, loss+" "+strconv.FormatFloat(l.Metrics[name], 'g', 3, 64))
			}
		}
		if len(losses) > 0 {
			fmt.Fprintf(out, "  losses       %s\n", strings.Join(losses, ", "))
		}
		if e := l.Evaluation; e != nil {
			fmt.Fprintf(out, "  evaluation   %.3f x LEFT (%.3f to %.3f) at %s steps\n", e.Ratio, e.Interval[0], e.Interval[1], group(e.EnvSteps))
		}
	}
	if s != nil {
		fmt.Fprintf(out, "  replay       %s of %s steps, %s/s in, %s/s out\n", group(int64(s.Steps)), group(int64(s.Capacity)),
			short(s.InsertsPerSecond), short(s.SamplesPerSecond))
		fmt.Fprintf(out, "  limiter      %s\n", limiter(s.Limiter))
		if line := composition(s.Tasks); line != "" {
			fmt.Fprintf(out, "  stored       %s\n", line)
		}
	}
	r.table(out, now, rows)
	for _, p := range r.Problems {
		fmt.Fprintf(out, "  ! %s\n", p)
	}
}

func limiter(l protocol.LimiterStatus) string {
	text := map[string]string{
		protocol.LimiterFilling: "the learner waits ", protocol.LimiterBalanced: "balanced",
		protocol.LimiterActors: "actors wait ", protocol.LimiterLearner: "the learner waits ",
	}[l.State]
	if text == "" {
		text = l.State + " "
	}
	return text + l.Waiting
}

// composition is the shares of the first tasks and of ages.
func composition(tasks []protocol.TaskShare) string {
	var total uint64
	var ages [len(protocol.AgeBounds) + 1]uint64
	for _, t := range tasks {
		total += t.Total()
		for i, n := range t.Steps {
			ages[i] += n
		}
	}
	if total == 0 {
		return ""
	}
	var parts []string
	for i, t := range tasks {
		if i == 3 {
			parts = append(parts, fmt.Sprintf("and %d more", len(tasks)-i))
			break
		}
		parts = append(parts, fmt.Sprintf("%s %.0f%%", t.Task, 100*float64(t.Total())/float64(total)))
	}
	text := strings.Join(parts, ", ") + "; by age"
	for i, n := range ages {
		if n == 0 {
			continue
		}
		bound := "older"
		if i < len(protocol.AgeBounds) {
			bound = "<" + short(float64(protocol.AgeBounds[i]))
		}
		text += fmt.Sprintf(" %s %.0f%%", bound, 100*float64(n)/float64(total))
	}
	return text
}

// table lists the processes, of actors those that are late first.
func (r *Run) table(out *bytes.Buffer, now time.Time, rows int) {
	list := slices.Clone(r.Processes)
	slices.SortStableFunc(list, func(x, y Process) int {
		late := func(p Process) int {
			if p.Late {
				return 0
			}
			return 1
		}
		if roles[x.Role] != roles[y.Role] {
			return roles[x.Role] - roles[y.Role]
		}
		return late(x) - late(y)
	})
	rest := 0
	if rows > 0 && len(list) > rows {
		list, rest = list[:rows], len(list)-rows
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "  ROLE\tNAME\tHOST\tVERSION\tUP\tHEARD\tRATE\tPARAMS\tSAYS")
	for _, p := range list {
		up := ""
		if !p.Started.IsZero() {
			up = seconds(max(0, now.Sub(p.Started).Seconds()))
		}
		heard := fmt.Sprintf("%.0fs", p.Age)
		if p.Late {
			heard += " !"
		}
		rate, params, says := p.row()
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Role, p.Name, cut(printable(p.Host), 20), cut(printable(p.Version), 16), up, heard, rate, params, printable(says))
	}
	_ = t.Flush() // into memory
	if rest > 0 {
		fmt.Fprintf(out, "  ... and %d more\n", rest)
	}
}

// row is what a process shows in the table beside where it is.
func (p Process) row() (rate, params, says string) {
	switch {
	case p.Learner != nil:
		return short(p.Learner.UpdatesPerSecond) + " updates/s", fmt.Sprint(p.Learner.ParamVersion), p.Learner.Phase
	case p.Replay != nil:
		return short(p.Replay.InsertsPerSecond) + " steps/s", "", limiter(p.Replay.Limiter)
	case p.Dispatch != nil:
		d := p.Dispatch
		says = fmt.Sprintf("%s, %s decisions, %s fallbacks, %d of %d streams held", d.Stage, group(int64(d.Decisions)), group(int64(d.Fallbacks)), d.HeldStreams, d.Streams)
		if d.Holds != "" {
			says = "all held by " + d.Holds + "; " + says
		}
		return short(d.DecisionsPerSecond) + " decisions/s", fmt.Sprint(d.ParamVersion), says
	case p.Actor != nil:
		says = fmt.Sprintf("%d environments", p.Actor.Environments)
		if p.Actor.Waiting != "" {
			says = "waits " + p.Actor.Waiting
		}
		return short(p.Actor.StepsPerSecond) + " steps/s", fmt.Sprint(p.Actor.ParamVersion), says
	}
	return "", "", ""
}

// cut shortens a line to so many columns; 0 leaves it.
func cut(line string, width int) string {
	if runes := []rune(line); width > 0 && len(runes) > width {
		return string(runes[:width-1]) + "…"
	}
	return line
}

// printable replaces what would move a terminal's cursor.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// seconds writes a duration in its two largest units.
func seconds(s float64) string {
	d := time.Duration(min(max(s, 0), 1e9)) * time.Second
	day := 24 * time.Hour
	switch {
	case d >= day:
		return fmt.Sprintf("%dd%02dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// short writes a number in about three digits.
func short(v float64) string {
	for _, unit := range []struct {
		size float64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if v >= unit.size {
			return strconv.FormatFloat(v/unit.size, 'g', 3, 64) + unit.name
		}
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// group writes a count with commas between thousands.
func group(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
