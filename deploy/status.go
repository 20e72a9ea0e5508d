package deploy

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dreamfleet/dreamfleet/protocol"
)

// Report is what a host says of itself.
type Report struct {
	Host Host
	Have Have
	Err  error
}

// Observe asks all hosts. The error names those that did not answer, and their reports have it too.
func (f *Fleet) Observe(ctx context.Context) ([]Report, error) {
	reports := make([]Report, len(f.Hosts))
	at := map[string]int{}
	for i, h := range f.Hosts {
		reports[i].Host, at[h.Name] = h, i
	}
	err := f.each(ctx, func(ctx context.Context, h Host) error {
		r := &reports[at[h.Name]]
		r.Have, r.Err = f.observe(ctx, h)
		return r.Err
	})
	return reports, err
}

// beat is what a table shows of a heartbeat.
type beat struct {
	rate    string
	version uint64 // of the parameters that an actor acts by, 0: at random
	newest  uint64 // that a learner has published
	waiting bool
}

func read(h protocol.Heartbeat) beat {
	switch s := h.Status; {
	case s.Actor != nil:
		return beat{rate: fmt.Sprintf("%.0f steps/s", s.Actor.StepsPerSecond), version: s.Actor.ParamVersion, waiting: s.Actor.Waiting != ""}
	case s.Replay != nil:
		return beat{rate: fmt.Sprintf("%.0f inserts/s", s.Replay.InsertsPerSecond)}
	case s.Learner != nil:
		return beat{rate: fmt.Sprintf("%.1f updates/s", s.Learner.UpdatesPerSecond), newest: s.Learner.ParamVersion}
	}
	return beat{rate: "-"}
}

// WriteTable writes a line for every unit of every host, as it is and as its heartbeats tell, and one for
// every process on the bus that no host has. Staleness is how many parameter versions an actor is
// behind the learner's newest.
func WriteTable(out io.Writer, v *Inventory, reports []Report, heartbeats []protocol.Heartbeat, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "HOST\tROLE\tSTATE\tPID\tUP\tVERSION\tRATE\tSTALENESS\tHEARTBEAT")
	beats := map[string]protocol.Heartbeat{}
	var newest uint64
	for _, h := range heartbeats {
		beats[string(h.Role)+"."+h.Name] = h
		newest = max(newest, read(h).newest)
	}
	told := map[string]bool{}
	lead := leader(v, reports, beats[learnerKey], now)
	row := func(host, role, state, pid, up, version, key string) {
		rate, stale, last := "-", "-", "-"
		if h, ok := beats[key]; ok {
			told[key] = true
			b := read(h)
			rate, last = b.rate, age(now.Sub(h.Time))+" ago"
			if b.waiting {
				rate += ", held"
			}
			switch {
			case h.Role != protocol.RoleActor || newest == 0:
			case b.version == 0:
				stale = "acts at random"
			default:
				stale = fmt.Sprint(max(newest, b.version) - b.version)
			}
		}
		fmt.Fprintln(w, strings.Join([]string{host, role, state, pid, up, version, rate, stale, last}, "\t"))
	}
	for _, r := range reports {
		if r.Err != nil {
			for _, unit := range r.Host.units() {
				key := beatKey(r.Host, unit)
				if unit == RoleLearner && r.Host.Name != lead {
					key = ""
				}
				row(r.Host.Name, unit, "UNREACHABLE", "-", "-", "-", key)
			}
			continue
		}
		units := maps.Clone(r.Have.Units)
		if units == nil {
			units = map[string]State{}
		}
		for _, unit := range r.Host.units() {
			if _, ok := units[unit]; !ok {
				units[unit] = State{Code: neverStarted}
			}
		}
		for _, unit := range sortedUnits(units) {
			s, key := units[unit], beatKey(r.Host, unit)
			state, pid, up, version := "STOPPED", "-", "-", cmp.Or(r.Have.Versions[s.Binary], "-")
			switch {
			case s.Running:
				state, pid, up = "running", fmt.Sprint(s.PID), age(s.Uptime)
				if !slices.Contains(r.Host.units(), unit) {
					state = "running, surplus"
				}
				if unit == RoleLearner && v.learners() > 1 && lead != "" {
					state += map[bool]string{true: ", leads", false: ", stands by"}[r.Host.Name == lead]
				}
			case s.Code == neverStarted:
				version = "-"
			case s.Code == 0:
				state = "ended"
			case s.Code < 0:
				state = "LOST"
			default:
				state = fmt.Sprintf("FAILED with %d", s.Code)
			}
			if unit == RoleLearner && r.Host.Name != lead {
				key = ""
			}
			row(r.Host.Name, unit, state, pid, up, version, key)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(beats)) {
		if h := beats[key]; !told[key] && !ofOther(v, reports, key) {
			row(cmp.Or(h.Status.Host, "?"), string(h.Role)+" "+h.Name, "joined by itself", fmt.Sprint(h.Status.PID), age(now.Sub(h.Status.Started)), cmp.Or(h.Status.Version, "-"), key)
		}
	}
	return w.Flush()
}

const neverStarted = -2

// learnerKey is that of the heartbeat of whichever learner leads: the others have none.
const learnerKey = RoleLearner + "." + RoleLearner

func (v *Inventory) learners() (n int) {
	for _, h := range v.Hosts {
		if slices.Contains(h.Roles, RoleLearner) {
			n++
		}
	}
	return n
}

// leader is the name of the host whose learner the heartbeat is, empty where that is not known. A heartbeat
// names its process; should two hosts have one of that number, it is the one that has run for as long.
func leader(v *Inventory, reports []Report, h protocol.Heartbeat, now time.Time) (name string) {
	if h.Status.Learner == nil {
		return ""
	}
	if v.learners() == 1 {
		return v.find(RoleLearner).Name
	}
	var least time.Duration
	var away []string
	for _, r := range reports {
		switch s, ok := r.Have.Units[RoleLearner]; {
		case r.Err != nil && slices.Contains(r.Host.Roles, RoleLearner):
			away = append(away, r.Host.Name)
		case ok && s.Running && s.PID == h.Status.PID:
			if off := (now.Sub(h.Status.Started) - s.Uptime).Abs(); name == "" || off < least {
				name, least = r.Host.Name, off
			}
		}
	}
	if name == "" && len(away) == 1 {
		return away[0]
	}
	return name
}

// units are those that a host should have.
func (h Host) units() []string {
	var units []string
	for _, role := range []string{RoleNATS, RoleReplay, RoleLearner} {
		switch {
		case !slices.Contains(h.Roles, role):
		case role == RoleReplay && len(h.Shards) > 0:
			for _, shard := range slices.Sorted(slices.Values(h.Shards)) {
				units = append(units, fmt.Sprintf("%s-%d", role, shard))
			}
		default:
			units = append(units, role)
		}
	}
	for i := range h.Actors {
		units = append(units, fmt.Sprintf("%s-%d", RoleActor, i+1))
	}
	return units
}

// beatKey is under what role and name a unit's heartbeats come.
func beatKey(h Host, unit string) string {
	switch role := roleOf(unit); role {
	case RoleActor:
		return "actor." + h.Name + strings.TrimPrefix(unit, RoleActor)
	case RoleReplay: // which cuts a long name, for the number's sake
		if shard, ok := strings.CutPrefix(unit, RoleReplay+"-"); ok {
			return fmt.Sprintf("replay.%.25s-%s", h.Name, shard)
		}
		return "replay." + h.Name
	default:
		return role + "." + role
	}
}

// ofOther tells whether a heartbeat is that of a host of the inventory which is not in the table.
func ofOther(v *Inventory, reports []Report, key string) bool {
	for _, h := range v.Hosts {
		shown := slices.ContainsFunc(reports, func(r Report) bool { return r.Host.Name == h.Name })
		if !shown && slices.ContainsFunc(h.units(), func(u string) bool { return beatKey(h, u) == key }) {
			return true
		}
	}
	return false
}

// age is a duration to two figures or so.
func age(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
	}
}
