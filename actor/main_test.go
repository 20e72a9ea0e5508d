package actor

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/dreamfleet/dreamfleet/env"
	"github.com/dreamfleet/dreamfleet/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// game is a small environment: a number that actions add to, in episodes whose
// length depends on the seed, with one action forbidden at a time.
type game struct {
	id, step, length int
	sum              float64
	masks            bool
}

const gameActions = 5

type gameTask struct{ name string }

func (t gameTask) Name() string { return t.name }

type gameTasks struct{}

func (gameTasks) Draw(r *rand.Rand) env.Task {
	return gameTask{[]string{"easy", "hard"}[r.IntN(2)]}
}

func (g *game) Spec() env.Spec { return env.Spec{Obs: 3, Actions: gameActions} }

func (g *game) Reset(_ env.Task, seed uint64) error {
	g.id, g.step, g.sum = int(seed%1000), 0, 0
	g.length = 2 + int(seed%7)
	return nil
}

func (g *game) Observe(obs []float32, mask []bool) {
	obs[0], obs[1], obs[2] = float32(g.id), float32(g.step), float32(g.sum)
	for a := range mask {
		mask[a] = !g.masks || a != (g.id+g.step)%gameActions
	}
}

func (g *game) Step(action int) (env.Outcome, error) {
	if g.masks && action == (g.id+g.step)%gameActions {
		return env.Outcome{}, errors.New("forbidden action")
	}
	g.step++
	g.sum += float64(action)
	return env.Outcome{Reward: -float64(action), Signal: 0.5, Done: g.step == g.length}, nil
}

func (g *game) Episode() env.Summary {
	return env.Summary{Task: "game", Return: -g.sum, MeanJCT: g.sum / 2, Length: g.step}
}

func trials(t testing.TB, n int, masks bool) []*env.Trial {
	t.Helper()
	all := make([]*env.Trial, n)
	for i := range all {
		var err error
		if all[i], err = env.NewTrial(&game{masks: masks}, gameTasks{}, 2, uint64(40+i)); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// row is the state of the scripted policy in one environment: the sum of what
// it saw and chose since the trial's first step, and its last action.
type row struct{ sum, last float32 }

// act is the scripted policy of one row; bias stands for its parameters.
func (r *row) act(obs []float32, flags uint8, mask []bool, bias int) (action int32, logProb float32) {
	if flags&protocol.FlagFirst != 0 {
		*r = row{}
	}
	for _, x := range obs {
		r.sum += x
	}
	action = int32((int(r.sum) + bias) % len(mask))
	if action < 0 {
		action += int32(len(mask))
	}
	for !mask[action] {
		action = (action + 1) % int32(len(mask))
	}
	r.sum += float32(action)
	r.last = float32(action + 1)
	return action, -float32(action) / 8
}

// script is a policy that is easily told in advance.
type script struct {
	rows []row
	bias int
}

func newScript(n int) *script { return &script{rows: make([]row, n)} }

var errBlob = errors.New("no parameters")

func (p *script) ContextLen() int { return 2 }

func (p *script) Act(obs []float32, flags []uint8, mask []bool, action []int32, logProb []float32) {
	d, a := len(obs)/len(p.rows), len(mask)/len(p.rows)
	for i := range p.rows {
		action[i], logProb[i] = p.rows[i].act(obs[i*d:(i+1)*d], flags[i], mask[i*a:(i+1)*a], p.bias)
	}
}

func (p *script) Context(dst []float32) {
	for i, r := range p.rows {
		dst[2*i], dst[2*i+1] = r.sum, r.last
	}
}

func (p *script) Load(blob []byte) error {
	if len(blob) != 1 {
		return errBlob
	}
	p.bias = int(blob[0])
	return nil
}

func (p *script) Save(dst []byte) ([]byte, error) {
	return binary.Append(dst, binary.LittleEndian, p.flat())
}

func (p *script) flat() []float32 {
	flat := make([]float32, 2*len(p.rows))
	p.Context(flat)
	return flat
}

func (p *script) Restore(b []byte) error {
	flat := p.flat()
	if _, err := binary.Decode(b, binary.LittleEndian, flat); err != nil {
		return err
	}
	for i := range p.rows {
		p.rows[i] = row{flat[2*i], flat[2*i+1]}
	}
	return nil
}

// stored is a bus that stores every chunk at once, or fails as it is told.
type stored struct {
	mu     sync.Mutex
	fail   func(attempt int, c *protocol.Chunk) error
	tries  []string // message ids of all attempts
	chunks []*protocol.Chunk
}

func (s *stored) PublishChunk(ctx context.Context, c *protocol.Chunk, done func(uint64, error)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b, err := c.AppendTo(nil)
	if err != nil {
		return err
	}
	copied, err := protocol.DecodeChunk(b, protocol.Limits{})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tries = append(s.tries, c.MessageID())
	if s.fail != nil {
		if err := s.fail(len(s.tries), c); err != nil {
			go done(c.Seq, err)
			return nil
		}
	}
	s.chunks = append(s.chunks, copied)
	go done(c.Seq, nil)
	return nil
}

func (s *stored) all() []*protocol.Chunk {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.chunks
}

func (s *stored) attempts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tries
}
