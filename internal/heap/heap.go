// Package heap puts off the first garbage collection of a process: what this program is made of has allocated more than Go's first four
// mebibytes before main begins, and most commands are over before a collection would help anybody.
package heap

import (
	"os"
	"runtime"
	"runtime/debug"
)

// patience is how much the heap may grow before the first collection, in percent of four mebibytes.
const patience = 400

// The collector would run while packages are initialised, which is half the cost of a short command. After its first run it works as Go has it
// by default, or as GOGC says from the beginning.
func init() {
	if os.Getenv("GOGC") != "" {
		return
	}
	debug.SetGCPercent(patience)
	first := new([16]byte)
	runtime.SetFinalizer(first, func(*[16]byte) { debug.SetGCPercent(100) })
}
