package main

import (
	"compress/gzip"
	"errors"
	"io"
	"strings"
)

// writeMaybeGzipped lets write write to w, compressed if the file's name says so.
func writeMaybeGzipped(w io.Writer, name string, write func(io.Writer) error) error {
	if !strings.HasSuffix(name, ".gz") {
		return write(w)
	}
	z := gzip.NewWriter(w)
	return errors.Join(write(z), z.Close())
}
