package dispatch

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"
)

// The log has a record for each decision that says who took it and why, over files that are bounded.
func TestAuditAnswersForEachDecision(t *testing.T) {
	dir := t.TempDir()
	plan := testPlan()
	plan.Stage, plan.Canary = Canary, []float64{0.5}
	plan.Audit = AuditPlan{Bytes: 4096, Files: 1000, Sync: time.Second}
	r := start(t, Config{Plan: plan, Dir: dir})
	r.offer(t, 9, testParams(t, r.policy, 1))
	want := map[string]Decision{}
	for i := range 200 {
		stream := name(i % 7)
		d := r.decide(t, Request{Stream: stream, Size: int64(i), Start: i < 7})
		want[stream+"/"+d.Job] = d
	}
	r.stop()
	numbers, err := auditFiles(dir)
	if err != nil || len(numbers) < 3 {
		t.Fatalf("files %v, %v", numbers, err)
	}
	policy := 0
	for _, n := range numbers {
		text, err := os.ReadFile(auditName(dir, n))
		if err != nil || len(text) > 4096 {
			t.Fatalf("%d bytes, %v", len(text), err)
		}
		for line := range strings.Lines(string(text)) {
			var a struct {
				Time                        time.Time
				Stream, Job, Stage, Decider string
				Reason                      Reason
				Version                     uint64
				Advice, Reference, Server   int
				Size                        int64
				Surprise                    float64
			}
			if err := json.Unmarshal([]byte(line), &a); err != nil {
				t.Fatal(err)
			}
			d, ok := want[a.Stream+"/"+a.Job]
			if !ok || a.Decider != d.Decider || a.Reason != d.Reason || a.Version != 9 || a.Advice != d.Advice || a.Reference != d.Reference ||
				a.Server != d.Server || a.Stage != string(Canary) || !a.Time.Equal(r.clock.Now()) {
				t.Errorf("%s of %+v", line, d)
			}
			if a.Decider == "policy" {
				policy++
				if position(a.Stream) >= 0.5 || a.Server != a.Advice {
					t.Error(line)
				}
			}
			delete(want, a.Stream+"/"+a.Job)
		}
	}
	if len(want) > 0 || policy == 0 || policy == 200 {
		t.Errorf("%d decisions have no record, %d were the policy's", len(want), policy)
	}
}

func TestAuditFilesAreBounded(t *testing.T) {
	dir := t.TempDir()
	plan := AuditPlan{Bytes: 4096, Files: 3, Sync: time.Second}
	for range 5 { // lives
		a, err := openAudit(dir, plan)
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		ended := make(chan error, 1)
		go func() { ended <- a.run(done, nil) }()
		for range 50 {
			a.add(&Record{Stream: "a", Job: "b", Decider: "policy", Surprise: 0.25})
			eventually(t, "a write", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return len(a.pending) == 0 })
		}
		close(done)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	numbers, err := auditFiles(dir)
	if err != nil || len(numbers) != 3 || numbers[2] < 10 {
		t.Fatalf("files %v, %v", numbers, err)
	}
	path := auditName(dir, numbers[2])
	values, err := ReadSurprise(path)
	if err != nil || len(values) == 0 || values[0] != 0.25 {
		t.Errorf("surprise %v, %v", values, err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text[:len(text)-5], 0o644); err != nil {
		t.Fatal(err)
	}
	if torn, err := ReadSurprise(path); err != nil || len(torn) != len(values)-1 {
		t.Errorf("%d of %d values of a torn file, %v", len(torn), len(values), err)
	}
	if err := os.WriteFile(path, []byte("no\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSurprise(path); err == nil {
		t.Error("what is no audit log is read")
	}
}
