package bench

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"gonum.org/v1/gonum/mat"
)

//go:embed sizing.md.tmpl
var sizingPage string

// maxResultLine bounds a line of figures, which has some 300 bytes.
const maxResultLine = 1 << 16

// ReadResults reads figures as --json writes them.
func ReadResults(r io.Reader) ([]Result, error) {
	var all []Result
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxResultLine)
	for n := 1; lines.Scan(); n++ {
		var one Result
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return nil, fmt.Errorf("line %d is no figure: %w", n, err)
		}
		all = append(all, one)
	}
	return all, lines.Err()
}

// scalePoint is what was measured with one number of actors, by name.
type scalePoint struct {
	actors  float64
	figures map[string]float64
	config  string
}

func (p scalePoint) at(names ...string) error {
	for _, name := range names {
		if _, ok := p.figures[name]; !ok {
			return fmt.Errorf("scale/%g/%s is missing", p.actors, name)
		}
	}
	return nil
}

// scalePoints sorts the figures of bench scale by the number of actors.
func scalePoints(all []Result) ([]scalePoint, error) {
	byActors := map[int]scalePoint{}
	for _, r := range all {
		name, ok := strings.CutPrefix(r.Name, "scale/")
		count, what, cut := strings.Cut(name, "/")
		n, err := strconv.Atoi(count)
		if !ok || !cut || err != nil || n < 1 {
			continue
		}
		p, ok := byActors[n]
		if !ok {
			p = scalePoint{float64(n), map[string]float64{}, r.Config}
			byActors[n] = p
		}
		p.figures[what] = r.Value
	}
	var points []scalePoint
	for _, n := range slices.Sorted(maps.Keys(byActors)) {
		p := byActors[n]
		if err := p.at("idle_nats", "idle_replay", "heartbeats_received", "heartbeats_sent", "idle_flow", "fanout", "fanout_bytes", "fanout_nats",
			"chunks", "chunks_nats", "chunks_replay", "chunks_received", "chunks_sent", "flow", "together", "together_versions", "together_nats",
			"together_replay", "together_received", "together_sent", "together_flow", "staleness"); err != nil {
			return nil, err
		}
		points = append(points, p)
	}
	if len(points) < 3 {
		return nil, fmt.Errorf("figures of %d numbers of actors: at least 3 are needed, such as 1, 10 and 100", len(points))
	}
	last := points[len(points)-1]
	return points, last.at("batch_bytes", "batch_nats", "batch_replay", "step_bytes", "server_memory", "chunk_bytes")
}

// load is what a fleet does, in a second.
type load struct {
	connections, chunks, flow, versions float64 // flow messages received; parameter versions
}

// costs are the constants of the model: each is multiplied with the part of a load that its
// name ends in.
type costs struct {
	nats     struct{ fixed, connection, chunk, flow, version float64 } // cores; a version to one connection
	replay   struct{ fixed, chunk float64 }
	received struct{ connection, chunk, version float64 } // bytes, by the server
	sent     struct{ connection, chunk, flow, version float64 }
	fanout   struct{ fixed, connection float64 } // seconds until all have a version
}

func (c *costs) natsCores(l load) float64 {
	n := c.nats
	return n.fixed + n.connection*l.connections + n.chunk*l.chunks + n.flow*l.flow + n.version*l.versions*l.connections
}
func (c *costs) replayCores(l load) float64 { return c.replay.fixed + c.replay.chunk*l.chunks }
func (c *costs) receivedBytes(l load) float64 {
	return c.received.connection*l.connections + c.received.chunk*l.chunks + c.received.version*l.versions
}
func (c *costs) sentBytes(l load) float64 {
	s := c.sent
	return s.connection*l.connections + s.chunk*l.chunks + s.flow*l.flow + s.version*l.versions*l.connections
}
func (c *costs) fanoutSeconds(connections float64) float64 {
	return c.fanout.fixed + c.fanout.connection*connections
}

// fitCosts finds the constants from what was measured of idle fleets, of chunks alone and of
// parameters alone. What was measured of all together is left for checking.
func fitCosts(points []scalePoint) (c costs, err error) {
	var nats, replay, received, sent, fanout, version, versionBytes fit
	for _, p := range points {
		n, f := p.actors, p.figures
		nats.add(f["idle_nats"], 1, n, 0, f["idle_flow"])
		nats.add(f["chunks_nats"], 1, n, f["chunks"], f["flow"])
		replay.add(f["idle_replay"], 1, 0)
		replay.add(f["chunks_replay"], 1, f["chunks"])
		received.add(f["heartbeats_received"], n, 0)
		received.add(f["chunks_received"], n, f["chunks"])
		sent.add(f["heartbeats_sent"], n, 0, f["idle_flow"])
		sent.add(f["chunks_sent"], n, f["chunks"], f["flow"])
		fanout.add(f["fanout"], 1, n)
		version.add(f["fanout_nats"], n)
		versionBytes.add(f["fanout_bytes"], n)
	}
	for _, x := range []struct {
		of *fit
		to []*float64
	}{
		{&nats, []*float64{&c.nats.fixed, &c.nats.connection, &c.nats.chunk, &c.nats.flow}},
		{&replay, []*float64{&c.replay.fixed, &c.replay.chunk}},
		{&received, []*float64{&c.received.connection, &c.received.chunk}},
		{&sent, []*float64{&c.sent.connection, &c.sent.chunk, &c.sent.flow}},
		{&fanout, []*float64{&c.fanout.fixed, &c.fanout.connection}},
		{&version, []*float64{&c.nats.version}},
		{&versionBytes, []*float64{&c.sent.version}},
	} {
		if err := x.of.solve(x.to); err != nil {
			return c, err
		}
	}
	c.received.version = c.sent.version // the learner sends it once
	return c, nil
}

// fit is a linear model fitted by least squares of relative errors, so that small fleets
// count as much as large ones, with no coefficient below zero: nothing gives back what it
// has cost.
type fit struct {
	rows   [][]float64
	values []float64
}

func (f *fit) add(value float64, row ...float64) {
	if value > 0 { // what was too small to be seen says nothing about proportions
		f.rows, f.values = append(f.rows, row), append(f.values, value)
	}
}

func (f *fit) solve(to []*float64) error {
	left := make([]int, len(to)) // coefficients that are not zero yet
	for i := range left {
		left[i] = i
		*to[i] = 0
	}
	for len(left) > 0 {
		a := mat.NewDense(len(f.rows), len(left), nil)
		ones := mat.NewVecDense(len(f.rows), nil)
		for i, row := range f.rows {
			for j, k := range left {
				a.Set(i, j, row[k]/f.values[i])
			}
			ones.SetVec(i, 1)
		}
		var x mat.VecDense
		if err := x.SolveVec(a, ones); err != nil && !errors.As(err, new(mat.Condition)) {
			return fmt.Errorf("the figures do not determine the constants: %w", err)
		}
		worst := 0
		for j := range left {
			if x.AtVec(j) < x.AtVec(worst) {
				worst = j
			}
		}
		if x.AtVec(worst) < 0 {
			left = slices.Delete(left, worst, worst+1)
			continue
		}
		for j, k := range left {
			*to[k] = x.AtVec(j)
		}
		return nil
	}
	return nil
}

// sizingData is what the page's template is given.
type sizingData struct {
	Machine   string
	Measured  []map[string]string
	Constants map[string]string
	Checks    []checkRow
	Fleets    []fleetRow
	Inputs    sizingInputs
}

// checkRow compares a prediction for a size with what was measured there, by constants that
// were fitted without that size.
type checkRow struct{ Actors, What, Predicted, Measured, Error string }

// fleetRow is a prediction.
type fleetRow struct {
	Actors, PerHost, Hosts, Connections, Chunks, Steps, NATSCores, Received, Sent, Servers, ReplayCores, Shards, Fanout, StreamFull, Disk string
}

// sizingInputs are assumptions of the predictions, which the page names.
type sizingInputs struct {
	ChunkRate    float64 // chunks a second of an actor
	ChunkSteps   float64
	VersionRate  float64 // versions a second
	Updates      float64 // train steps a second, each of one batch
	StepsPerCore float64 // environment steps a second that a core acts, environments included
	HostCores    float64
	LinkBytes    float64 // a second
	Share        float64 // of cores and links that is used
	StoreBytes   float64 // bound of the stream of trajectories
	Capacity     float64 // of the replay, in steps
	PerHost      float64 // actors that share a process
}

// VersionInterval is the seconds between versions.
func (in sizingInputs) VersionInterval() float64 { return 1 / in.VersionRate }

// small's figures are in docs/performance.md: 45.6 train steps a second, and 171 000
// environment steps a second with the policy.
var defaultInputs = sizingInputs{
	ChunkRate: 1, ChunkSteps: 32, VersionRate: 0.2, Updates: 45.6, StepsPerCore: 171_000, HostCores: 8, LinkBytes: 1.25e9, Share: 0.5,
	StoreBytes: 1 << 30, Capacity: 500_000, PerHost: 16,
}

// WriteSizing writes docs/sizing.md from the figures of bench scale.
func WriteSizing(w io.Writer, all []Result) error {
	points, err := scalePoints(all)
	if err != nil {
		return err
	}
	c, err := fitCosts(points)
	if err != nil {
		return err
	}
	checks, err := checkRows(points)
	if err != nil {
		return err
	}
	last := points[len(points)-1]
	d := sizingData{Machine: machineOf(points), Constants: constants(&c, last), Checks: checks, Inputs: defaultInputs}
	for _, p := range points {
		d.Measured = append(d.Measured, measured(p))
	}
	for _, actors := range []float64{100, 1000, 10_000} {
		for _, perHost := range []float64{1, defaultInputs.PerHost} {
			d.Fleets = append(d.Fleets, predict(&c, last, defaultInputs, actors, perHost))
		}
	}
	page, err := template.New("sizing").Parse(sizingPage)
	if err != nil {
		return err
	}
	return page.Execute(w, d)
}

// machineOf says where and under which load the figures were taken.
func machineOf(points []scalePoint) string {
	cores, loads := "unknown", []string{}
	for _, p := range points {
		parts := strings.Split(p.config, ", ")
		for _, part := range parts {
			if strings.HasSuffix(part, " cores") {
				cores = part
			}
			if l, ok := strings.CutPrefix(part, "load "); ok {
				loads = append(loads, l)
			}
		}
	}
	return fmt.Sprintf("%s, with a load average of %s when each size began", cores, strings.Join(loads, ", "))
}

// number writes three digits, and no zeros that say nothing.
func number(x float64) string {
	for _, unit := range []struct {
		of   float64
		name string
	}{{1e9, " G"}, {1e6, " M"}, {1e4, " k"}} {
		if math.Abs(x) >= unit.of {
			if unit.name == " k" {
				return threeDigits(x/1e3) + unit.name
			}
			return threeDigits(x/unit.of) + unit.name
		}
	}
	return threeDigits(x)
}

func threeDigits(x float64) string {
	if x == 0 {
		return "0"
	}
	digits := max(0, 2-int(math.Floor(math.Log10(math.Abs(x)))))
	text := strconv.FormatFloat(x, 'f', digits, 64)
	if digits > 0 {
		text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
	}
	return text
}

func measured(p scalePoint) map[string]string {
	row := map[string]string{"actors": number(p.actors)}
	for name, v := range p.figures {
		row[name] = number(v)
	}
	if _, ok := row["connection_memory"]; !ok {
		row["connection_memory"] = "–"
	}
	return row
}

func constants(c *costs, last scalePoint) map[string]string {
	f := last.figures
	return map[string]string{
		"natsConnection": number(1e6 * c.nats.connection), "natsChunk": number(1e6 * c.nats.chunk), "natsFlow": number(1e6 * c.nats.flow),
		"natsVersion": number(1e3 * c.nats.version), "natsFixed": number(c.nats.fixed),
		"replayFixed": number(c.replay.fixed), "replayChunk": number(1e6 * c.replay.chunk),
		"receivedConnection": number(c.received.connection), "receivedChunk": number(c.received.chunk),
		"sentConnection": number(c.sent.connection), "sentChunk": number(c.sent.chunk), "sentFlow": number(c.sent.flow), "sentVersion": number(c.sent.version),
		"fanoutFixed": number(1e3 * c.fanout.fixed), "fanoutConnection": number(1e3 * c.fanout.connection),
		"batchBytes": number(f["batch_bytes"]), "batchReplay": number(f["batch_replay"]), "batchNATS": number(f["batch_nats"]), "stepBytes": number(f["step_bytes"]),
	}
}

// checkRows predict each size from the others.
func checkRows(points []scalePoint) ([]checkRow, error) {
	var rows []checkRow
	for i, p := range points {
		c, err := fitCosts(slices.Delete(slices.Clone(points), i, i+1))
		if err != nil {
			return nil, err
		}
		f := p.figures
		l := load{p.actors, f["together"], f["together_flow"], f["together_versions"]}
		for _, x := range []struct {
			what                string
			predicted, measured float64
			unit                string
		}{
			{"NATS", c.natsCores(l), f["together_nats"], " cores"},
			{"replay", c.replayCores(l), f["together_replay"], " cores"},
			{"NATS receives", c.receivedBytes(l), f["together_received"], "B/s"},
			{"NATS sends", c.sentBytes(l), f["together_sent"], "B/s"},
			{"parameters to all", c.fanoutSeconds(p.actors), f["fanout"], " s"},
		} {
			rows = append(rows, checkRow{
				number(p.actors), x.what, number(x.predicted) + x.unit, number(x.measured) + x.unit,
				fmt.Sprintf("%+.0f %%", 100*(x.predicted/x.measured-1)),
			})
		}
	}
	return rows, nil
}

// predict is a fleet of so many actors, of which so many share a process and its connection.
func predict(c *costs, last scalePoint, in sizingInputs, actors, perHost float64) fleetRow {
	f := last.figures
	connections := math.Ceil(actors / perHost)
	l := load{connections: connections, chunks: actors * in.ChunkRate, versions: in.VersionRate}
	l.flow = connections * flowRate(last)
	nats := c.natsCores(l) + in.Updates*f["batch_nats"]/1e6
	replay := c.replayCores(l) + in.Updates*f["batch_replay"]/1e6
	received := c.receivedBytes(l) + in.Updates*f["batch_bytes"]
	sent := c.sentBytes(l) + in.Updates*f["batch_bytes"]
	servers := math.Ceil(max(nats/(in.Share*in.HostCores), max(sent, received)/(in.Share*in.LinkBytes)))
	// One loop inserts, so a shard has one core of that.
	shards := math.Ceil(replay / in.Share)
	acting := math.Ceil(actors * in.ChunkRate * in.ChunkSteps / in.StepsPerCore / in.Share / in.HostCores)
	return fleetRow{
		Actors: number(actors), PerHost: number(perHost), Hosts: number(max(acting, 1)), Connections: number(connections),
		Chunks: number(l.chunks), Steps: number(l.chunks * in.ChunkSteps),
		NATSCores: number(nats), Received: number(received), Sent: number(sent), Servers: number(servers),
		ReplayCores: number(replay), Shards: number(shards), Fanout: number(c.fanoutSeconds(connections)),
		StreamFull: number(in.StoreBytes / (l.chunks * c.received.chunk) / 60), Disk: number(in.Capacity * f["step_bytes"]),
	}
}

// flowRate is the flow messages a second that an actor gets while chunks come.
func flowRate(p scalePoint) float64 { return p.figures["flow"] / p.actors }
