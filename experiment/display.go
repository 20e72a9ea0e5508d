package experiment

import (
	"fmt"
	"strings"
	"time"
)

// Lines shows jobs, one a line: those that are running or failed, and above them how many are done and the time left.
func Lines(jobs []Status, parallel int) []string {
	count := map[string]int{}
	var lines []string
	for _, s := range jobs {
		count[s.State]++
		if s.State == Training || s.State == Testing || s.State == Failed {
			lines = append(lines, s.Line())
		}
	}
	head := fmt.Sprintf("%d of %d jobs done", count[Done], len(jobs))
	if n := count[Failed]; n > 0 {
		head += fmt.Sprintf(", %d failed", n)
	}
	if left, ok := TimeLeft(jobs, parallel); ok && count[Done]+count[Failed] < len(jobs) {
		head += fmt.Sprintf(", at most %s left", rounded(left))
	}
	return append([]string{head}, lines...)
}

// Line shows a job.
func (s Status) Line() string {
	text := fmt.Sprintf("%-28s %s", s.Name, s.State)
	if s.State == Failed {
		first, _, _ := strings.Cut(s.Err.Error(), "\n")
		return text + ": " + first
	}
	if s.Detail != "" {
		text += " " + s.Detail
	}
	if s.Minutes > 0 {
		text += fmt.Sprintf(", %3.0f %%, %d steps, %.0f a second", 100*s.Share(), s.Steps, float64(s.Steps)/s.Minutes/60)
		if share := s.Share(); s.State == Training && share > 0 {
			text += fmt.Sprintf(", %s left", rounded(time.Duration(s.Minutes*(1-share)/share*float64(time.Minute))))
		}
	}
	return text
}

// rounded is a duration without more digits than it is known to.
func rounded(d time.Duration) string {
	if d < 10*time.Minute {
		return d.Round(time.Second).String()
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}
