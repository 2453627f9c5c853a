//go:build !linux

package sqlite

import (
	"errors"
	"os"
)

// networkFilesystem is not known here; the documentation says what must not be done.
func networkFilesystem(string) string { return "" }

// readOnlyFilesystem is not known here: a store on one cannot be looked at.
func readOnlyFilesystem(string) bool { return false }

// freeBytes is not known here.
func freeBytes(string) (int64, bool) { return 0, false }

// allocate is not to be had here; the bytes are written.
func allocate(*os.File, int64) error { return errors.ErrUnsupported }
