package bench

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/dreamfleet/dreamfleet/model"
)

// peakRounds of the register loop are some milliseconds.
const peakRounds = 100_000

// peak is the rate of floating-point operations, a second, that all threads
// reach on registers alone. It is 0 without vectorised loops.
func peak(pool *model.Pool, length time.Duration) float64 {
	rate := make([]float64, pool.Threads())
	pool.Run(len(rate), func(lo, hi int) {
		start, made := time.Now(), 0
		for time.Since(start) < length {
			made += model.PeakFlops(peakRounds)
		}
		rate[lo] = float64(made) / time.Since(start).Seconds()
	})
	sum := 0.0
	for _, r := range rate {
		sum += r
	}
	return sum
}

// Machine describes the machine: what it is, in the configuration, and the peak
// rate of its threads against as many times that of one.
func Machine(ctx context.Context, o *Options) (Result, error) {
	kernels, err := model.Kernels()
	if err != nil {
		return Result{}, err
	}
	one, all := model.NewPool(1), model.NewPool(o.Threads)
	defer one.Close()
	defer all.Close()
	const length = 50 * time.Millisecond
	r, err := o.rounds(ctx,
		func() (float64, error) { return peak(all, length) / 1e9, nil },
		func() (float64, error) { return float64(o.Threads) * peak(one, length) / 1e9, nil })
	r.Name, r.Unit, r.LimitKind = "machine/peak", "GFLOP/s", "peak_of_one_thread"
	r.Config = fmt.Sprintf("%s, %d cores, %s of memory, %s/%s, %s, %d threads, kernels %s", Processor(), runtime.NumCPU(),
		memory(), runtime.GOOS, runtime.GOARCH, runtime.Version(), o.Threads, kernels)
	return r, err
}

// Processor is the model of the machine's processor.
func Processor() string { return field("/proc/cpuinfo", "model name", "unknown processor") }

func memory() string { return field("/proc/meminfo", "MemTotal", "unknown size") }

// field is the value of the first line that begins with key in one of Linux's
// tables.
func field(path, key, or string) string {
	f, err := os.Open(path)
	if err != nil {
		return or
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == key {
			return strings.TrimSpace(value)
		}
	}
	return or
}

// MemoryBytes is the size of the machine's memory, 0 where it is unknown.
func MemoryBytes() int64 {
	n, unit, _ := strings.Cut(memory(), " ")
	if kib, err := strconv.ParseInt(n, 10, 64); err == nil && unit == "kB" {
		return kib << 10
	}
	return 0
}
