package simulator

import "time"

// Shrink looks for the fewest faults and the shortest time that still violate an invariant, and returns the report of the
// simulation that is left. It returns the report of o itself when o violates nothing.
func Shrink(o Options) Report {
	best := Run(o)
	if len(best.Violations) == 0 {
		return best
	}
	o.Chaos = min(o.Chaos, best.Simulated+time.Second)
	cuts := []func(*Options){
		func(o *Options) { o.Restore = 0 }, func(o *Options) { o.ClockJump = 0 }, func(o *Options) { o.WorkerPause = 0 },
		func(o *Options) { o.WorkerCrash = 0 }, func(o *Options) { o.ServerCrash = 0 }, func(o *Options) { o.CommitFault = 0 },
		func(o *Options) { o.Operators = false }, func(o *Options) { o.Shared = 0 }, func(o *Options) { o.Late = 0 }, func(o *Options) { o.Duplicate = 0 }, func(o *Options) { o.Lose = 0 },
		func(o *Options) { o.Servers = 1 }, func(o *Options) { o.Workers = 2 }, func(o *Options) { o.Chaos /= 2 },
		func(o *Options) { o.Chaos /= 2 }, func(o *Options) { o.Exclusive = false },
	}
	for _, cut := range cuts {
		smaller := best.Options
		cut(&smaller)
		if r := Run(smaller); len(r.Violations) > 0 {
			best = r
		}
	}
	return best
}
