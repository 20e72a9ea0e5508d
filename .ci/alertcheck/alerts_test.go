// Package alertcheck gives deploy's alert rules and dashboard to Prometheus's own parser and engine. It
// is a module of its own, so that the main one does without Prometheus: make alert-check runs it.
package alertcheck

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

var promQL = parser.NewParser(parser.Options{})

// provoked is, for each alert, series that fire it and series that do not, a value every minute.
var provoked = map[string]struct{ fires, quiet string }{
	"DreamfleetDown":        {`up{job="dreamfleet"} 0x60`, `up{job="dreamfleet"} 1x60`},
	"DreamfleetLoopStalled": {`dreamfleet_loop_stalled{role="learner",loop="learn"} 1x60`, `dreamfleet_loop_stalled{role="learner",loop="learn"} 0x60`},
	"DreamfleetNotReady":    {`dreamfleet_ready{check="store"} 0x60`, `dreamfleet_ready{check="store"} 1x60`},
	"DreamfleetBusCutOff":   {`dreamfleet_bus_connected{role="actor"} 0x60`, `dreamfleet_bus_connected{role="actor"} 1x60`},
	"DreamfleetBusDenied":   {`dreamfleet_bus_denied_total{role="actor"} 0x55 1x5`, `dreamfleet_bus_denied_total{role="actor"} 3x60`},
	"DreamfleetMessagesRefused": {
		"dreamfleet_bus_dead_lettered_messages_total{reason=\"corrupt\"} 0x60\ndreamfleet_bus_refused_messages_total{reason=\"corrupt\"} 0+1x60",
		"dreamfleet_bus_dead_lettered_messages_total{reason=\"corrupt\"} 2x60\ndreamfleet_bus_refused_messages_total{reason=\"corrupt\"} 1x60",
	},
	"DreamfleetTrajectoryStreamFull": {
		"dreamfleet_nats_stream_bytes{stream=\"TRAJ\"} 81x60\ndreamfleet_nats_stream_limit_bytes{stream=\"TRAJ\"} 100x60",
		"dreamfleet_nats_stream_bytes{stream=\"TRAJ\"} 79x60\ndreamfleet_nats_stream_limit_bytes{stream=\"TRAJ\"} 100x60",
	},
	"DreamfleetBusStorageFull": {
		"dreamfleet_nats_storage_bytes 81x60\ndreamfleet_nats_storage_limit_bytes 100x60",
		"dreamfleet_nats_storage_bytes 79x60\ndreamfleet_nats_storage_limit_bytes 100x60",
	},
	"DreamfleetSlowConsumers":    {`dreamfleet_nats_slow_consumers_total 0x55 1x5`, `dreamfleet_nats_slow_consumers_total 1x60`},
	"DreamfleetNoUpdates":        {`dreamfleet_learner_updates_total 500x60`, `dreamfleet_learner_updates_total 0+50x60`},
	"DreamfleetUpdatesNotFinite": {`dreamfleet_learner_skipped_updates_total 0+1x60`, `dreamfleet_learner_skipped_updates_total 7x60`},
	"DreamfleetCheckpointOld": { // evaluated an hour after 1970
		`dreamfleet_learner_checkpoint_timestamp_seconds 600x60`,
		"dreamfleet_learner_checkpoint_timestamp_seconds{run=\"fresh\"} 3000x60\ndreamfleet_learner_checkpoint_timestamp_seconds{run=\"new\"} 0x60",
	},
	"DreamfleetChunksDropped": {`dreamfleet_actor_dropped_chunks_total 0+1x60`, `dreamfleet_actor_dropped_chunks_total 9x60`},
	"DreamfleetActorsOutdated": {
		"dreamfleet_bus_param_versions_received_total{role=\"actor\",run=\"a\",instance=\"x\"} 5x60\ndreamfleet_bus_param_versions_sent_total{role=\"learner\",run=\"a\"} 0+1x60",
		// One run's learner sends nothing; another's actors receive.
		"dreamfleet_bus_param_versions_received_total{role=\"actor\",run=\"a\"} 5x60\ndreamfleet_bus_param_versions_sent_total{role=\"learner\",run=\"a\"} 5x60\n" +
			"dreamfleet_bus_param_versions_received_total{role=\"actor\",run=\"b\"} 0+1x60\ndreamfleet_bus_param_versions_sent_total{role=\"learner\",run=\"b\"} 0+1x60",
	},
	"DreamfleetParametersRefused": {`dreamfleet_actor_params_rejected_total 0+1x60`, `dreamfleet_actor_params_rejected_total 1x60`},
	"DreamfleetDispatcherGone":    {`dreamfleet_dispatch_streams{run="a",instance="x"} 4x46`, "dreamfleet_dispatch_streams{run=\"a\",instance=\"x\"} 4x46\ndreamfleet_dispatch_streams{run=\"a\",instance=\"y\"} 4x60"},
	"DreamfleetDispatchFallbacks": {
		"dreamfleet_dispatch_decisions_total{decider=\"policy\",reason=\"\"} 0+80x60\ndreamfleet_dispatch_decisions_total{decider=\"reference\",reason=\"latency\"} 0+20x60",
		"dreamfleet_dispatch_decisions_total{decider=\"policy\",reason=\"\"} 0+80x60\ndreamfleet_dispatch_decisions_total{decider=\"reference\",reason=\"latency\"} 0+5x60\n" +
			"dreamfleet_dispatch_decisions_total{decider=\"reference\",reason=\"stage\"} 0+900x60",
	},
	"DreamfleetDispatchHeld": {`dreamfleet_dispatch_held{guard="cost"} 1x60`, `dreamfleet_dispatch_held{guard="cost"} 0x60`},
	"DreamfleetDispatchDeadlines": {
		"dreamfleet_dispatch_decisions_total{decider=\"policy\",reason=\"\"} 0+90x60\ndreamfleet_dispatch_decisions_total{decider=\"reference\",reason=\"deadline\"} 0+2x60",
		"dreamfleet_dispatch_decisions_total{decider=\"policy\",reason=\"\"} 0+900x60\ndreamfleet_dispatch_decisions_total{decider=\"reference\",reason=\"deadline\"} 0+2x60",
	},
	"DreamfleetDispatchParametersStale": { // evaluated an hour after 1970
		"dreamfleet_dispatch_param_timestamp_seconds{run=\"a\"} 600x60\ndreamfleet_learner_updates_total{run=\"a\"} 0+9x60",
		"dreamfleet_dispatch_param_timestamp_seconds{run=\"a\"} 3000x60\ndreamfleet_learner_updates_total{run=\"a\"} 0+9x60\n" +
			"dreamfleet_dispatch_param_timestamp_seconds{run=\"trained\"} 1x60\ndreamfleet_learner_updates_total{run=\"trained\"} 9x60",
	},
	"DreamfleetReplayDamaged": {`dreamfleet_replay_damaged_bytes 12x60`, `dreamfleet_replay_damaged_bytes 0x60`},
}

func TestAlertsFireWhenProvokedAndOnlyThen(t *testing.T) {
	groups, errs := rulefmt.ParseFile("../../deploy/alerts.yml", false, model.UTF8Validation, promQL, promslog.NewNopLogger())
	for _, err := range errs {
		t.Error(err)
	}
	if groups == nil {
		t.FailNow()
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, Parser: promQL})
	alerts := 0
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			alerts++
			p, ok := provoked[rule.Alert]
			if !ok {
				t.Errorf("%s is never provoked", rule.Alert)
				continue
			}
			if n := firing(t, engine, rule.Expr, p.fires); n != 1 {
				t.Errorf("%s: %d fire where it is provoked", rule.Alert, n)
			}
			if n := firing(t, engine, rule.Expr, p.quiet); n != 0 {
				t.Errorf("%s: %d fire where all is well", rule.Alert, n)
			}
		}
	}
	if alerts != len(provoked) {
		t.Errorf("%d alerts, %d are provoked", alerts, len(provoked))
	}
}

// firing evaluates an expression after an hour of some series and counts what comes of it.
func firing(t *testing.T, engine *promql.Engine, expr, text string) int {
	t.Helper()
	var series []storage.Series
	for line := range strings.Lines(text) {
		of, values, err := promQL.ParseSeriesDesc(strings.TrimSpace(line))
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		var samples []chunks.Sample
		for i, v := range values {
			samples = append(samples, sample{t: int64(i) * time.Minute.Milliseconds(), v: v.Value})
		}
		series = append(series, storage.NewListSeries(of, samples))
	}
	queryable := &storage.MockQueryable{MockQuerier: &storage.MockQuerier{
		SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
			var found []storage.Series
			for _, s := range series {
				if matches(s.Labels(), matchers) {
					found = append(found, s)
				}
			}
			return &list{found, -1}
		},
	}}
	query, err := engine.NewInstantQuery(context.Background(), queryable, nil, expr, time.Unix(3600, 0))
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	defer query.Close()
	vector, err := query.Exec(context.Background()).Vector()
	if err != nil {
		t.Fatalf("%s: %v", expr, err)
	}
	return len(vector)
}

func matches(of labels.Labels, matchers []*labels.Matcher) bool {
	for _, m := range matchers {
		if !m.Matches(of.Get(m.Name)) {
			return false
		}
	}
	return true
}

// sample is a chunks.Sample that is a number.
type sample struct {
	t int64
	v float64
}

func (s sample) T() int64                      { return s.t }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.v }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }

// list is a storage.SeriesSet.
type list struct {
	series []storage.Series
	at     int
}

func (l *list) Next() bool                        { l.at++; return l.at < len(l.series) }
func (l *list) At() storage.Series                { return l.series[l.at] }
func (l *list) Err() error                        { return nil }
func (l *list) Warnings() annotations.Annotations { return nil }

func TestDashboardParses(t *testing.T) {
	text, err := os.ReadFile("../../deploy/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	parsed := 0
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "1m", "$run", ".*").Replace(target.Expr)
			if _, err := promQL.ParseExpr(expr); err != nil {
				t.Errorf("%s: %s: %v", p.Title, target.Expr, err)
			}
			parsed++
		}
	}
	if parsed < 20 {
		t.Errorf("only %d expressions", parsed)
	}
}
