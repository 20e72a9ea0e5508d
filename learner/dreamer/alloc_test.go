package dreamer

import (
	"runtime"
	"strings"
	"testing"
)

// A step in the steady state allocates nothing but what Gorgonia's machine
// allocates for itself, an interface value for each input of an operator.
func TestTrainDoesNotAllocate(t *testing.T) {
	defer func(rate int) { runtime.MemProfileRate = rate }(runtime.MemProfileRate)
	runtime.MemProfileRate = 1
	for name, c := range variants() {
		t.Run(name, func(t *testing.T) {
			c.Threads = 2
			a := newAgent(t, c)
			p := newBatchOf(c, 1)
			step := func() {
				if r, err := a.Train(t.Context(), p); err != nil || r.Skipped {
					t.Fatal(err, r.Metrics)
				}
			}
			step()
			const steps = 20
			before := allocations()
			for range steps {
				step()
			}
			gorgonia := uint64(0)
			for stack, n := range allocations() {
				n -= before[stack]
				switch f := allocator(stack); {
				case n < steps: // once in a while: the runtime's own
				case strings.HasPrefix(f, "gorgonia.org/"):
					gorgonia += n
				case strings.HasSuffix(f, ".allocations"):
				case strings.HasPrefix(f, modulePath):
					t.Errorf("%d allocations in %d steps by %s", n, steps, f)
				}
			}
			if gorgonia == 0 {
				t.Error("Gorgonia allocates nothing: the profile does not see the step")
			}
		})
	}
}

const modulePath = "github.com/dreamfleet/dreamfleet/"

type stack [32]uintptr

// allocations counts the objects allocated so far by call stack.
func allocations() map[stack]uint64 {
	// The profile is that of the last but one collection.
	runtime.GC()
	runtime.GC()
	var records []runtime.MemProfileRecord
	n, ok := runtime.MemProfile(nil, true)
	for !ok {
		records = make([]runtime.MemProfileRecord, n+100)
		n, ok = runtime.MemProfile(records, true)
	}
	counts := make(map[stack]uint64, n)
	for _, r := range records[:n] {
		counts[r.Stack0] += uint64(r.AllocObjects)
	}
	return counts
}

// allocator is the function that asked for the memory: the first of a stack
// that is not the runtime's or the standard library's. It is none for the
// places of sleeping goroutines, of which the runtime keeps some for each
// processor and makes new ones while these fill.
func allocator(s stack) string {
	n := 0
	for n < len(s) && s[n] != 0 {
		n++
	}
	frames := runtime.CallersFrames(s[:n])
	for {
		f, more := frames.Next()
		if f.Function == "runtime.acquireSudog" {
			return ""
		}
		if first, _, _ := strings.Cut(f.Function, "/"); strings.Contains(first, ".") && strings.Contains(f.Function, "/") {
			return f.Function
		}
		if !more {
			return ""
		}
	}
}
