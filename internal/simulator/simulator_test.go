package simulator_test

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"orrery.example/orrery/internal/simulator"
)

var (
	seeds  = flag.Int("seeds", number("ORRERY_SIMULATOR_SEEDS", 40), "how many seeds TestSeeds plays")
	first  = flag.Int("first", number("ORRERY_SIMULATOR_FIRST", 1), "the first of them")
	shrink = flag.Bool("shrink", false, "look for the fewest faults that a failing seed needs")
	trace  = flag.Bool("trace", false, "print the whole trace of a seed that fails")
)

func number(variable string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(variable)); err == nil {
		return n
	}
	return otherwise
}

// provoked is what a round of seeds must have brought about at least so often; a round that did not proves nothing.
var provoked = map[string]int{
	"acknowledged cancel": 40, "acknowledged pause": 10, "attempts after a failure": 20, "attempts that hang": 20, "attempts told to stop": 10,
	"clock jumps": 20, "dead steps": 5, "deadlines missed": 10, "decisions": 20, "duplicate requests": 200, "frozen workers": 50,
	"histories replayed": 500, "leases from before a restore": 3, "leases given back": 5, "leases of dead sessions": 20,
	"lines sent again": 50, "looks across tenants": 20, "lost replies": 200, "lost requests": 200, "power cut after commit": 20,
	"power cut before commit": 20, "reports accepted": 500, "restores": 10, "restores with leases": 5, "retries of runs": 10,
	"runs that waited for their key": 20, "server crashes": 50, "sessions declared dead": 20, "stale acks refused": 1,
	"stale lines refused": 5, "stale reports refused": 20, "steps that kill their worker": 10, "steps that met a full concurrency key": 20,
	"submissions sent again": 20, "submissions that existed": 10, "tokens refused for another plan": 5, "unknown outcomes": 20,
	"worker crashes with leases": 20,
	"runs asked why they wait":   200, "reason WAITS_FOR_STEPS": 10, "reason WAITS_FOR_APPROVAL": 50, "reason WAITS_FOR_RETRY": 1,
	"reason RUNNING": 50, "reason WAITS_FOR_TIME": 10, "reason WAITS_FOR_CONCURRENCY": 20, "reason WAITS_FOR_PARALLELISM": 20,
	"reason WAITS_FOR_TENANT": 10, "reason WAITS_FOR_QUEUE": 5, "reason WAITS_FOR_RESUME": 50, "reason WAITS_FOR_CAPABILITY": 1,
	"reason WAITS_FOR_WORKER":       50,
	"acknowledged cordon of worker": 50, "acknowledged drain of worker": 50, "acknowledged limit of queue": 50, "acknowledged limit of tenant": 50,
	"acknowledged pause of pack": 20, "acknowledged pause of queue": 50, "acknowledged pause of tenant": 20, "acknowledged quota of tenant": 50,
	"acknowledged resume of pack": 20, "acknowledged resume of queue": 50, "acknowledged resume of tenant": 20,
	"acknowledged weight of tenant": 50, "delayed runs that started": 100, "ready steps held back: key full": 500,
	"ready steps held back: label missing": 200, "ready steps held back: pack paused": 500, "ready steps held back: queue full": 500,
	"ready steps held back: queue paused": 500, "ready steps held back: tenant full": 500, "ready steps held back: tenant paused": 500,
	"ready steps held back: worker paused": 500, "submissions beyond a quota": 50, "tenants that waited for another": 50, "workers that drain": 50,
}

// TestSeeds plays seeds with every fault and nothing broken: no invariant may be violated.
func TestSeeds(t *testing.T) {
	cover := map[string]int{}
	events, simulated := 0, time.Duration(0)
	started := time.Now()
	for seed := *first; seed < *first+*seeds; seed++ {
		r := simulator.Run(simulator.Expand(uint64(seed)))
		if len(r.Violations) > 0 {
			fail(t, r)
			return
		}
		for name, n := range r.Coverage {
			cover[name] += n
		}
		events += r.Events
		simulated += r.Simulated
	}
	took := time.Since(started)
	t.Logf("%d seeds: %d events, %s simulated in %s (%.0f events/s)", *seeds, events, simulated.Round(time.Second),
		took.Round(time.Millisecond), float64(events)/took.Seconds())
	names := make([]string, 0, len(cover))
	for name := range cover {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		t.Logf("  %6d %s", cover[name], name)
	}
	for name, least := range provoked {
		if *seeds >= 40 && cover[name] < least {
			t.Errorf("void: %q happened %d times, not the %d that a round needs to prove anything", name, cover[name], least)
		}
	}
}

// fail prints what a person needs to find the cause: the options with every fault that is not needed taken out.
func fail(t *testing.T, r simulator.Report) {
	t.Helper()
	small := r
	if *shrink {
		small = simulator.Shrink(r.Options)
	}
	small.Options.Trace = *trace
	if *trace {
		small = simulator.Run(small.Options)
	}
	t.Errorf("seed %d: %s\noptions %s\nsmallest %s\n%s\nagain: go test ./internal/simulator -run TestSeeds -first %d -seeds 1 -trace",
		r.Options.Seed, strings.Join(r.Violations, "\n"), fmt.Sprintf("%+v", r.Options), fmt.Sprintf("%+v", small.Options),
		strings.Join(small.Trace, "\n"), r.Options.Seed)
}

// TestSameSeed: a seed is the same simulation every time, to the last letter of its trace.
func TestSameSeed(t *testing.T) {
	hashes := map[uint64]bool{}
	for seed := uint64(1000); seed < 1005; seed++ {
		a, b := simulator.Run(simulator.Expand(seed)), simulator.Run(simulator.Expand(seed))
		if a.Hash != b.Hash || a.Events != b.Events {
			t.Errorf("seed %d: %d events with hash %x, and %d with %x", seed, a.Events, a.Hash, b.Events, b.Hash)
		}
		hashes[a.Hash] = true
	}
	if len(hashes) != 5 {
		t.Errorf("five seeds gave %d traces", len(hashes))
	}
}
