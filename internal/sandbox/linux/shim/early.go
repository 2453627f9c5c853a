// Package shim is the first process of a sandbox: it builds the walls around itself, starts the step, and reaps its tree.
//
// It is a program of its own, cmd/orrery-sandbox-shim, or any that links this package, executed again under the name of Name. It lives for
// milliseconds; so it needs little of the standard library, nothing of the rest of a program, and starts before the rest is initialised.
package shim

import (
	"os"
	"syscall"
)

// Packages are initialised in the order of their import paths, as soon as what they import is. So this one comes before the rest of this
// program and before whatever else sorts behind it or imports more, which is most of the cost; it needs no call from main, and cannot be
// forgotten. What sorts before it is initialised for every step of a build that carries no shim: GODEBUG=inittrace=1 shows it, some three
// milliseconds of processor time.
func init() {
	if len(os.Args) > 0 && os.Args[0] == Name {
		syscall.Exit(begin(os.Args)) // os.Exit would first end a race detector, which takes it a second
	}
}
