// Package heap lets garbage gather before it is collected: memory, and not much of it, for processor time.
package heap

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// patience is how much the heap may grow before the first collection, in percent of four mebibytes.
const patience = 400

// headroom is how much garbage may gather at least. By itself Go lets as much gather as is alive: little in a process that keeps its state on
// disk, which under load would spend a tenth of its processor time on collections.
const headroom = 64 << 20

// What this program is made of has allocated more than Go's first four mebibytes before main begins: the collector would run while packages
// are initialised, which is half the cost of a short command, and most commands are over before a collection would help anybody. From the first
// collection on there is headroom. GOGC and GOMEMLIMIT change that: whoever sets them has decided.
func init() {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	debug.SetGCPercent(patience)
	p := &pace{percent: patience, live: []metrics.Sample{{Name: "/gc/heap/live:bytes"}}}
	runtime.SetFinalizer(p, (*pace).collected)
}

// pace is garbage once in every collection, and so hears of each. It holds a pointer: what has none may share its place with what lives
// longer.
type pace struct {
	percent int // that was set last
	live    []metrics.Sample
}

func (p *pace) collected() {
	metrics.Read(p.live)
	percent := percentFor(p.live[0].Value.Uint64())
	if off := percent - p.percent; off > p.percent/8 || off < -p.percent/8 { // to set it stops the process for a moment
		p.percent = percent
		debug.SetGCPercent(percent)
	}
	runtime.SetFinalizer(p, (*pace).collected)
}

// percentFor is the GOGC that leaves headroom beside what is alive, or as much as is alive where that is more.
func percentFor(live uint64) int {
	return int(max(100, min(headroom*100/max(live, 1<<20), 1000)))
}
