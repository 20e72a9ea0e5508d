package dispatch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// describe returns the description that is served, which is valid.
func describe(t *testing.T) *openapi3.T {
	t.Helper()
	d, err := openapi3.NewLoader().LoadFromData(API)
	if err != nil {
		t.Fatal(err)
	}
	if !d.IsOpenAPI31OrLater() {
		t.Fatal(d.OpenAPI)
	}
	if err := d.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return d
}

// conforms checks a body against the schema of a content.
func conforms(content openapi3.Content, kind string, body []byte) error {
	media := content.Get(kind)
	if media == nil {
		return fmt.Errorf("no content of %q is described", kind)
	}
	if kind != "application/json" {
		return nil
	}
	var value any
	if err := json.Unmarshal(body, &value); err != nil {
		return err
	}
	return media.Schema.Value.VisitJSON(value, openapi3.EnableJSONSchema2020())
}

// Every call over HTTP, right and wrong, is as the description says: requests that are refused for their content are
// those that it excludes, and answers have its shape.
func TestHTTPIsAsDescribed(t *testing.T) {
	described := describe(t)
	plan := testPlan()
	plan.Stage = Shadow
	plan.Servers = []string{"x", "y", "z"}
	r := start(t, Config{Plan: plan})
	for _, n := range []uint64{3, 4} {
		r.offer(t, n, testParams(t, r.policy, n))
	}
	server := httptest.NewServer(r.Handler())
	defer server.Close()
	ask := func(method, path, body string, want int) []byte {
		t.Helper()
		request, err := http.NewRequest(method, server.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if body != "" {
			request.Header.Set("Content-Type", "application/json")
		}
		response, err := server.Client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		content, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != want {
			t.Fatalf("%s %s %s: %d %s, want %d (%v)", method, path, body, response.StatusCode, content, want, err)
		}
		operation := described.Paths.Value(path).GetOperation(method)
		answer := operation.Responses.Status(want)
		if answer == nil {
			t.Fatalf("%s %s: the answer %d is not described", method, path, want)
		}
		if len(answer.Value.Content) > 0 || len(content) > 0 {
			if err := conforms(answer.Value.Content, response.Header.Get("Content-Type"), content); err != nil {
				t.Errorf("%s %s: the answer %s is not as described: %v", method, path, content, err)
			}
		}
		if body != "" && want == http.StatusOK {
			if err := conforms(operation.RequestBody.Value.Content, "application/json", []byte(body)); err != nil {
				t.Errorf("%s %s %s: not as described: %v", method, path, body, err)
			}
		}
		return content
	}
	post := func(path, body string, want int) []byte { t.Helper(); return ask("POST", path, body, want) }

	var d Decision
	if err := json.Unmarshal(post("/v1/decide", `{"stream":"a","size":100,"start":true}`, 200), &d); err != nil {
		t.Fatal(err)
	}
	if d.Job != "1" || d.Name != plan.Servers[d.Server] || d.Decider != "reference" || d.Reason != ReasonStage || d.Version != 4 || d.Reference != 2 {
		t.Errorf("%+v", d)
	}
	post("/v1/decide", `{"stream":"a","job":"\"\u0007<ü","size":100,"loads":[1,2,3.5],"down":[0]}`, 200)
	post("/v1/complete", `{"stream":"a","jobs":["1"]}`, 200)
	post("/v1/complete", `{"stream":"a","jobs":["1"]}`, 404)
	for _, wrong := range []string{
		``, `{}`, `[]`, `{"stream":"a","size":1}x`, `{"stream":"","size":1}`, `{"stream":"a","size":-1}`, `{"stream":"a","size":1e99}`,
		`{"stream":"a","size":1,"loads":[1]}`, `{"stream":"a","size":1,"loads":[1,2,-3]}`, `{"stream":"a","size":1,"down":[0,1,2]}`,
		`{"stream":"a","size":1,"down":[3]}`, `{"stream":"a","size":1,"what":1}`, `{"stream":"` + strings.Repeat("a", 65) + `","size":1}`,
	} {
		post("/v1/decide", wrong, 400)
	}
	post("/v1/complete", `{"stream":"a","jobs":[]}`, 400)
	post("/v1/decide", `{"stream":"`+strings.Repeat("a", MaxRequest)+`"}`, 413)

	post("/v1/rollback", `{"version":5}`, 404)
	post("/v1/rollback", `{"version":3}`, 200)
	post("/v1/approve", `{}`, 200)
	post("/v1/stepdown", `{"stage":"active"}`, 409)
	post("/v1/stepdown", `{"stage":"shadow"}`, 200)
	post("/v1/release", `{}`, 200)
	post("/v1/release", `{"stream":"nobody"}`, 404)
	r.mu.Lock()
	r.hold(nil, Hold{Guard: ReasonCost, Value: 2, Limit: 1, Note: "a test"}, 0)
	r.mu.Unlock()
	post("/v1/approve", `{}`, 409)
	post("/v1/approve", `{"force":true}`, 200)
	var s Status
	if err := json.Unmarshal(ask("GET", "/v1/status", "", 200), &s); err != nil || s.Stage != Canary || len(s.Holds) != 1 || !s.Pinned {
		t.Errorf("%+v, %v", s, err)
	}
	if text := ask("GET", "/openapi.yaml", "", 200); !bytes.Equal(text, API) {
		t.Error("another description is served")
	}
	ask("GET", "/healthz", "", 204)
}

// A page of elsewhere cannot make a browser on this machine send commands.
func TestCommandsAreOfThisMachine(t *testing.T) {
	r := start(t, Config{Plan: testPlan()})
	server := httptest.NewServer(r.Handler())
	defer server.Close()
	request, err := http.NewRequest("POST", server.URL+"/v1/stepdown", strings.NewReader(`{"stage":"shadow"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Host = "evil.example"
	response, err := server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusForbidden || r.Status().Stage != Active {
		t.Errorf("%s, stage %s", response.Status, r.Status().Stage)
	}
}

// The answer that is written without reflection is that of encoding/json.
func TestDecisionsAreJSON(t *testing.T) {
	for _, d := range []Decision{
		{Job: "1", Server: 2, Name: "x", Decider: "policy", Stage: Active, Version: 1 << 60, Advice: 2, Reference: 1},
		{Job: "\"\\\n\x01ü\xff", Name: "<&>", Decider: "reference", Reason: ReasonSurprise, Stage: Canary, Advice: -1},
	} {
		var back Decision
		if err := json.Unmarshal(d.appendTo(nil), &back); err != nil {
			t.Fatalf("%s: %v", d.appendTo(nil), err)
		}
		d.Job = strings.ToValidUTF8(d.Job, "\ufffd")
		if back != d {
			t.Errorf("%+v, want %+v", back, d)
		}
	}
}

func FuzzDecodeRequest(f *testing.F) {
	for _, seed := range []string{
		`{"stream":"a","size":1}`, `{"stream":"a","job":"x","size":9,"start":true,"loads":[1,2,3],"down":[1]}`, `{"stream":"a","size":1e5}`, `null`, `{"loads":[]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRequest(b, 3)
		if err != nil {
			return
		}
		if r.check(3) != nil || len(r.Stream) > maxName || r.Loads != nil && len(r.Loads) != 3 {
			t.Errorf("%+v is taken", r)
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := DecodeRequest(again, 3); err != nil || fmt.Sprint(back) != fmt.Sprint(r) {
			t.Errorf("%s reads back as %+v, %v", again, back, err)
		}
	})
}

func FuzzDecodeCompletion(f *testing.F) {
	f.Add([]byte(`{"stream":"a","jobs":["1","2"]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := DecodeCompletion(b); err == nil && (len(c.Jobs) < 1 || len(c.Jobs) > maxJobs || c.Stream == "") {
			t.Errorf("%+v is taken", c)
		}
	})
}
