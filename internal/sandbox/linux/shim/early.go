// Package shim is the first process of a sandbox: it builds the walls around itself, starts the step, and reaps its tree.
//
// It is the same binary, executed again under the name of Name, and lives for milliseconds; so it needs little of the standard
// library, nothing of the rest of the program, and starts before the rest is initialised.
package shim

import (
	"os"
	"syscall"
)

// Packages are initialised in the order of their import paths as soon as what they import is. This one imports little, so it comes
// before the expression compiler, the schemas and the database, whose initialisation costs more than the step: measured, ten of
// thirteen milliseconds of processor time. It needs no call from main, and cannot be forgotten.
func init() {
	if len(os.Args) > 0 && os.Args[0] == Name {
		syscall.Exit(begin(os.Args)) // os.Exit would first end a race detector, which takes it a second
	}
}
