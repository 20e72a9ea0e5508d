package env

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

// count is an environment whose episodes end after a task's number of actions.
// The reward is the action, its signal ten times that; it observes the episode's
// number and the step within it; action 1 is forbidden at odd steps.
type count struct {
	task     countTask
	episode  int
	step     int
	seeds    []uint64
	failStep bool
}

type countTask int

func (t countTask) Name() string { return fmt.Sprintf("count to %d", int(t)) }

func (c *count) Spec() Spec { return Spec{Obs: 2, Actions: 3} }

func (c *count) Reset(task Task, seed uint64) error {
	n, ok := task.(countTask)
	if !ok {
		return fmt.Errorf("not a count: %v", task)
	}
	c.task, c.step = n, 0
	c.episode++
	c.seeds = append(c.seeds, seed)
	return nil
}

func (c *count) Observe(obs []float32, mask []bool) {
	obs[0], obs[1] = float32(c.episode), float32(c.step)
	mask[0], mask[1], mask[2] = true, c.step%2 == 0, true
}

func (c *count) Step(action int) (Outcome, error) {
	if c.failStep {
		return Outcome{}, errors.New("out of order")
	}
	c.step++
	return Outcome{Reward: float64(action), Signal: 10 * float64(action), Done: c.step == int(c.task)}, nil
}

func (c *count) Episode() Summary {
	return Summary{Task: c.task.Name(), Return: float64(c.episode), Length: c.step}
}

func transcript(t *testing.T, trial *Trial, actions ...int) string {
	t.Helper()
	var b strings.Builder
	for _, a := range actions {
		s, err := trial.Next(a)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%d: obs %v mask %v reward %v flags %04b", a, s.Obs, s.Mask, s.Reward, s.Flags)
		if sum, ok := trial.Finished(); ok {
			fmt.Fprintf(&b, " ended %q %v %d", sum.Task, sum.Return, sum.Length)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func newTrial(t *testing.T, e Env, d Distribution, episodes int, seed uint64) *Trial {
	t.Helper()
	trial, err := NewTrial(e, d, episodes, seed)
	if err != nil {
		t.Fatal(err)
	}
	return trial
}

func TestTrialTranscript(t *testing.T) {
	trial := newTrial(t, &count{}, Fixed(countTask(2)), 2, 1)
	if got, want := trial.Spec(), (Spec{Obs: 4, Actions: 3}); got != want {
		t.Errorf("spec %v, want %v", got, want)
	}
	got := transcript(t, trial, 2, 1, 2, 2, 1, 1, 2)
	want := `2: obs [1 0 0 1] mask [true true true] reward 0 flags 0011
1: obs [1 1 10 0] mask [true false true] reward 1 flags 0000
2: obs [2 0 20 1] mask [true true true] reward 2 flags 0010 ended "count to 2" 1 2
2: obs [2 1 20 0] mask [true false true] reward 2 flags 0000
1: obs [2 2 10 0] mask [true true true] reward 1 flags 1100 ended "count to 2" 2 2
1: obs [3 0 0 1] mask [true true true] reward 0 flags 0011
2: obs [3 1 20 0] mask [true false true] reward 2 flags 0000
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if trial.Begun() != 2 {
		t.Errorf("%d trials begun, want 2", trial.Begun())
	}
}

func TestTrialOfOneEpisodeOfOneAction(t *testing.T) {
	got := transcript(t, newTrial(t, &count{}, Fixed(countTask(1)), 1, 1), 0, 2, 0)
	want := `0: obs [1 0 0 1] mask [true true true] reward 0 flags 0011
2: obs [1 1 20 0] mask [true false true] reward 2 flags 1100 ended "count to 1" 1 1
0: obs [2 0 0 1] mask [true true true] reward 0 flags 0011
`
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

type drawn struct{}

func (drawn) Draw(r *rand.Rand) Task { return countTask(2 + r.IntN(5)) }

func TestTrialResumesExactly(t *testing.T) {
	play := func(trial *Trial, steps int) {
		for range steps {
			if _, err := trial.Next(0); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, steps := range []int{0, 1, 5, 20, 33} {
		first := &count{}
		a := newTrial(t, first, drawn{}, 3, 7)
		play(a, steps)
		state := a.State()
		// The trial under way is replayed from its start, so finish it in neither.
		begun := a.Begun()
		if a.running {
			begun--
		}
		second := &count{}
		b := newTrial(t, second, drawn{}, 3, 99)
		if err := b.Restore(state); err != nil {
			t.Fatal(err)
		}
		if b.Begun() != begun {
			t.Errorf("after %d steps: %d trials begun, want %d", steps, b.Begun(), begun)
		}
		played := len(first.seeds)
		if a.running {
			played = (played - 1) / 3 * 3
		}
		play(a, 100)
		play(b, 60)
		if n := len(second.seeds); n < 5 || !reflect.DeepEqual(second.seeds, first.seeds[played:played+n]) {
			t.Errorf("after %d steps: restored trial has other seeds", steps)
		}
	}
}

func TestRestoreRefusesGarbage(t *testing.T) {
	trial := newTrial(t, &count{}, drawn{}, 1, 7)
	good := trial.State()
	for _, bad := range [][]byte{nil, {1}, good[:len(good)-1], append([]byte{2}, good[1:]...)} {
		if err := trial.Restore(bad); !errors.Is(err, ErrState) {
			t.Errorf("restoring %q: %v", bad, err)
		}
	}
}

func TestTrialErrors(t *testing.T) {
	if _, err := NewTrial(&count{}, drawn{}, 0, 1); err == nil {
		t.Error("a trial without episodes was accepted")
	}
	c := &count{}
	trial := newTrial(t, c, drawn{}, 1, 1)
	if _, err := trial.Next(0); err != nil {
		t.Fatal(err)
	}
	c.failStep = true
	if _, err := trial.Next(2); err == nil || err.Error() != "env: action 2: out of order" {
		t.Errorf("failing step: %v", err)
	}
	if s, err := trial.Next(2); err != nil || s.Flags != First|EpisodeStart {
		t.Errorf("after an error: %v, %v, want a new trial", s, err)
	}
	other := newTrial(t, &count{}, Fixed(alien{}), 1, 1)
	if _, err := other.Next(0); err == nil || !strings.Contains(err.Error(), "starting an episode of alien") {
		t.Errorf("alien task: %v", err)
	}
}

type alien struct{}

func (alien) Name() string { return "alien" }

func TestTrialDoesNotAllocate(t *testing.T) {
	trial := newTrial(t, &count{seeds: make([]uint64, 0, 10000)}, Fixed(countTask(3)), 2, 1)
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := trial.Next(0); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations a step", n)
	}
}

// FuzzRestore gives any state to a trial: one that is accepted comes out again, and the trial plays.
func FuzzRestore(f *testing.F) {
	good, err := NewTrial(&count{}, drawn{}, 1, 7)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good.State())
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, state []byte) {
		trial := newTrial(t, &count{}, drawn{}, 2, 1)
		if err := trial.Restore(state); err != nil {
			if !errors.Is(err, ErrState) {
				t.Error(err)
			}
			return
		}
		if got := trial.State(); string(got) != string(state) {
			t.Errorf("restored %x from %x", got, state)
		}
		if _, err := trial.Next(0); err != nil {
			t.Error(err)
		}
	})
}

// Without RL²'s inputs an agent sees neither rewards nor where episodes begin; all else is the same.
func TestBlindTrial(t *testing.T) {
	blind, err := NewTrial(new(count), Fixed(countTask(2)), 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	sighted, err := NewTrial(new(count), Fixed(countTask(2)), 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	blind.Blind = true
	shown := false
	for range 8 {
		b, err := blind.Next(2)
		if err != nil {
			t.Fatal(err)
		}
		s, err := sighted.Next(2)
		if err != nil {
			t.Fatal(err)
		}
		shown = shown || s.Obs[2] != 0 && s.Obs[3] != 0
		if b.Obs[2] != 0 || b.Obs[3] != 0 || !reflect.DeepEqual(b.Obs[:2], s.Obs[:2]) || b.Reward != s.Reward || b.Flags != s.Flags {
			t.Errorf("blind %+v, sighted %+v", b, s)
		}
	}
	if !shown {
		t.Error("there was nothing to hide")
	}
}
