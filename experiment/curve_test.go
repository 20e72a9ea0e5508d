package experiment_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/dreamfleet/dreamfleet/experiment"
)

func TestReadLearningCurve(t *testing.T) {
	c, err := experiment.ReadLearningCurve(strings.NewReader("run,minutes,environment_steps,greedy,sampled\na,0.5,100,2.5,\na,1,200,1.5,1.75\n"))
	if err != nil || len(c.Steps) != 2 || c.Steps[1] != 200 || c.Minutes[0] != 0.5 || c.Greedy[1] != 1.5 || !math.IsNaN(c.Sampled[0]) || c.Sampled[1] != 1.75 {
		t.Errorf("%+v, %v", c, err)
	}
	const header = "environment_steps,minutes,greedy,sampled\n"
	for text, want := range map[string]string{
		"":                          "learning curve",
		"environment_steps\n1\n":    "no minutes",
		header + "1,2,3\n":          "fields",
		header + "1,x,3,4\n":        `line 2: minutes is "x"`,
		header + "2,1,1,1\n1,2,1,1": "do not ascend",
	} {
		if _, err := experiment.ReadLearningCurve(strings.NewReader(text)); !errors.Is(err, experiment.ErrResult) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
}

func FuzzReadLearningCurve(f *testing.F) {
	f.Add("environment_steps,minutes,greedy,sampled\n1,2,3,4\n")
	f.Add("environment_steps,minutes,greedy,sampled\nNaN,Inf,,-1\n\"")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := experiment.ReadLearningCurve(strings.NewReader(text))
		if err != nil {
			if !errors.Is(err, experiment.ErrResult) {
				t.Errorf("error %v is no ErrResult", err)
			}
			return
		}
		if n := len(c.Steps); len(c.Minutes) != n || len(c.Greedy) != n || len(c.Sampled) != n {
			t.Errorf("columns of %d, %d, %d and %d rows", n, len(c.Minutes), len(c.Greedy), len(c.Sampled))
		}
	})
}
