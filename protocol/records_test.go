package protocol

import (
	"errors"
	"strings"
	"testing"
)

func FuzzDecodeFlow(f *testing.F) {
	f.Add([]byte(`{"hold":true,"reason":"ahead","inserts":1,"samples":2}`))
	f.Add([]byte(`{"inserts":-1}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := decodeFlow(data); err != nil && Reason(err) == "other" {
			t.Fatalf("no reason in %v", err)
		}
	})
}

func TestDecodeFlow(t *testing.T) {
	if _, err := decodeFlow([]byte(strings.Repeat(" ", maxFlow+1))); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
	if _, err := decodeFlow([]byte(`{"hold":1}`)); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}
