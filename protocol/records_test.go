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

func FuzzDecodeLease(f *testing.F) {
	f.Add([]byte(`{"epoch":1764000000000,"holder":"process 7 on a","released":true}`))
	f.Add([]byte(`{"epoch":0}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeLease(data)
		if err != nil && Reason(err) == "other" {
			t.Fatalf("no reason in %v", err)
		}
		if err == nil && r.Epoch == 0 {
			t.Fatal("a lease without an epoch")
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
