package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/dreamfleet/dreamfleet/monitor"
)

// expressions are those of the alert rules and of the dashboard, by where they stand.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	var alerts struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations struct{ Summary, Action string }
			}
		}
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct{ List []struct{ Query string } }
	}
	for file, into := range map[string]any{"alerts.yml": &alerts, "grafana.json": &dashboard} {
		text, err := os.ReadFile(filepath.Join("..", "..", "deploy", file))
		if err == nil && into == &dashboard {
			err = json.Unmarshal(text, into)
		} else if err == nil {
			err = yaml.Unmarshal(text, into)
		}
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			if r.Annotations.Summary == "" || r.Annotations.Action == "" {
				t.Errorf("%s does not say what happened and what to do", r.Alert)
			}
			found["alert "+r.Alert] = r.Expr
		}
	}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			found["panel "+p.Title+": "+target.Expr] = target.Expr
		}
	}
	for _, v := range dashboard.Templating.List {
		if strings.HasPrefix(v.Query, "label_values(") {
			found["variable "+v.Query] = v.Query
		}
	}
	return found
}

var (
	selector = regexp.MustCompile(`\b((?:dreamfleet|up|process|go)(?:_\w+)*)\b(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`)
	quoted   = regexp.MustCompile(`"[^"]*"`)
)

// Alerts and dashboard ask for what roles export, which TestTrainExportsTheTable has seen, by labels
// that it has.
func TestAlertsAndDashboardAskForWhatIsExported(t *testing.T) {
	metrics := map[string]monitor.Metric{}
	for _, m := range monitor.Table {
		metrics[m.Name] = m
	}
	asked := 0
	for where, expr := range expressions(t) {
		names := selector.FindAllStringSubmatch(expr, -1)
		if len(names) == 0 {
			t.Errorf("%s asks for nothing", where)
		}
		for _, n := range names {
			name, matchers := n[1], quoted.ReplaceAllString(n[2], `""`)
			if !strings.HasPrefix(name, "dreamfleet") {
				if !slices.Contains([]string{"up", "process_resident_memory_bytes"}, name) {
					t.Errorf("%s asks for %s", where, name)
				}
				continue
			}
			if name == "dreamfleet" {
				continue // the job
			}
			m, ok := metrics[name]
			for _, part := range []string{"_bucket", "_sum", "_count"} {
				if whole, is := strings.CutSuffix(name, part); is && metrics[whole].Kind == monitor.Histogram {
					m, ok = metrics[whole], true
				}
			}
			if !ok || m.Kind == monitor.Histogram && m.Name == name {
				t.Errorf("%s asks for %s, which no role exports", where, name)
				continue
			}
			asked++
			for _, label := range matcher.FindAllStringSubmatch(matchers, -1) {
				if !slices.Contains(append([]string{"run", "instance", "job", "le"}, m.Labels...), label[1]) {
					t.Errorf("%s selects %s by %s, which it has not", where, name, label[1])
				}
			}
			if (m.Kind == monitor.Counter || m.Kind == monitor.Histogram) != regexp.MustCompile(`(rate|increase)\(`+name+`\b`).MatchString(expr) {
				t.Errorf("%s: %s is a %s: rates are of counters, and of these nothing else", where, name, m.Kind)
			}
		}
	}
	if asked < 40 {
		t.Errorf("only %d metrics were found in the expressions", asked)
	}
}

// The manual says of every alert what it means, and of none that there is not.
func TestEveryAlertIsInTheManual(t *testing.T) {
	manual, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(manual), "\n### What each alarm means\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var described []string
	for _, row := range regexp.MustCompile("(?m)^\\| `(Dreamfleet\\w+)` \\|(.*)\\|$").FindAllStringSubmatch(section, -1) {
		described = append(described, row[1])
		cells := strings.Split(row[2], " | ")
		if len(cells) != 4 || slices.ContainsFunc(cells, func(c string) bool { return strings.TrimSpace(c) == "" }) {
			t.Errorf("%s: the manual does not give what it says, usual causes, what to look at and what to do: %q", row[1], row[2])
		}
	}
	var alerts []string
	for where := range expressions(t) {
		if name, ok := strings.CutPrefix(where, "alert "); ok {
			alerts = append(alerts, name)
		}
	}
	slices.Sort(described)
	slices.Sort(alerts)
	if !slices.Equal(described, alerts) {
		t.Errorf("there are the alerts\n%v\nand the manual describes\n%v", alerts, described)
	}
}
