package dispatch

import (
	_ "embed" // the API's description
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"

	"github.com/dreamfleet/dreamfleet/monitor"
)

// API is the OpenAPI 3.1 description of the HTTP interface.
//
//go:embed openapi.yaml
var API []byte

// Handler answers HTTP. Commands, which change what decides, are followed from this
// machine alone; who may ask for decisions is decided by where it listens.
func (s *Service) Handler() http.Handler {
	mux := http.NewServeMux()
	for name, call := range s.Calls() {
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(w, r, call.Do) })
		if call.Command {
			mux.Handle("POST /v1/"+name, monitor.OnLoopback(h))
		} else {
			mux.Handle("POST /v1/"+name, h)
		}
	}
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) { serve(w, r, s.Calls()["status"].Do) })
	mux.HandleFunc("GET /openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/yaml")
		_, _ = w.Write(API) // a client that has gone needs no answer
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	return mux
}

// bodies are buffers for requests, each as large as it ever had to be.
var bodies = sync.Pool{New: func() any { b := make([]byte, 0, 512); return &b }}

func serve(w http.ResponseWriter, r *http.Request, call func(c Caller, body []byte) ([]byte, error)) {
	buffer := bodies.Get().(*[]byte)
	defer bodies.Put(buffer)
	body, err := readInto((*buffer)[:0], http.MaxBytesReader(w, r.Body, MaxRequest))
	*buffer = body
	var answer []byte
	if err == nil {
		answer, err = call(r.Context(), body)
	}
	header := w.Header()
	header["Content-Type"] = jsonType
	if err == nil {
		header["Content-Length"] = []string{strconv.Itoa(len(answer))}
		_, _ = w.Write(answer) // a client that has gone needs no answer
		return
	}
	code, text := Code(err)
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		code = http.StatusRequestEntityTooLarge
	}
	answer, _ = json.Marshal(problem{text}) // a text has an encoding
	w.WriteHeader(code)
	_, _ = w.Write(answer)
}

var jsonType = []string{"application/json"}

// problem is the answer where there is no other.
type problem struct {
	Error string `json:"error"`
}

func readInto(b []byte, r io.Reader) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}
