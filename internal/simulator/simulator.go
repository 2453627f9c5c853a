// Package simulator plays servers, workers, clients, a network, a disk and clocks around the store, in one goroutine and
// from one seed: hours of faults in less than a second, and the same hours again whenever the seed is given again.
//
// What runs is the real store (every command of the kernel over the memory driver) and the real engine. What is played is
// everything around them: replies that get lost, come twice or late, servers that die before or after a commit, workers
// that die, hang or freeze and come back as zombies, power cuts, restores from a backup, clocks that jump. A checker sees
// every commit and holds it against the invariants; it keeps its own books and believes nothing that a row says of itself.
package simulator

import (
	"container/heap"
	"fmt"
	"hash"
	"hash/fnv"
	"math/rand/v2"
	"time"

	"orrery.example/orrery/internal/store"
	"orrery.example/orrery/internal/store/kernel"
	"orrery.example/orrery/internal/work"
)

// Options are one simulation. Expand draws them from a seed; a person changes them to find out what a failure needs.
type Options struct {
	Seed    uint64
	Servers int
	Workers int
	Tenants int
	Shared  int           // workers that serve every tenant, beside the others
	Chaos   time.Duration // how long clients submit and faults happen
	Heal    time.Duration // how long what was acknowledged may take to end after that

	Operators bool // somebody pauses, limits and lets go on

	Exclusive bool // one server that has the store to itself and keeps rows in memory

	Lose      int // of 1000 messages
	Duplicate int // of 1000 requests
	Late      int // of 1000 messages take seconds instead of milliseconds

	ServerCrash time.Duration // mean time between; 0 is never
	CommitFault int           // of 10000 commits the power goes, before or after the disk has it
	WorkerCrash time.Duration
	WorkerPause time.Duration
	Restore     time.Duration
	ClockJump   time.Duration

	Trace bool // keep the whole trace
	Bug   *Bug // what is broken on purpose, nil for nothing
}

// Bug breaks the system in one place, to prove that the checker would notice.
type Bug struct {
	Name  string
	Tx    func(server int, tx kernel.Tx) kernel.Tx // between the kernel and the driver
	Store func(s store.Store) store.Store          // between the callers and the kernel

	ServerClock     bool // servers use their own clocks in the place of the store's
	LateSync        bool // a commit is acknowledged before the disk has it
	SameIncarnation bool // a restore does not raise the incarnation
}

// Expand draws the options of a seed.
func Expand(seed uint64) Options {
	r := rand.New(rand.NewPCG(seed, 0x6f7272657279))
	between := func(min, max time.Duration) time.Duration { return min + time.Duration(r.Int64N(int64(max-min))) }
	sometimes := func(n int, d time.Duration) time.Duration {
		if r.IntN(n) == 0 {
			return 0
		}
		return d
	}
	o := Options{
		Seed: seed, Servers: 1 + r.IntN(3), Workers: 2 + r.IntN(5), Tenants: 2, Chaos: between(4*time.Minute, 8*time.Minute), Heal: 45 * time.Minute,
		Lose: r.IntN(60), Duplicate: r.IntN(60), Late: r.IntN(40), CommitFault: r.IntN(60),
		ServerCrash: sometimes(4, between(20*time.Second, 3*time.Minute)),
		WorkerCrash: sometimes(4, between(10*time.Second, time.Minute)),
		WorkerPause: sometimes(4, between(10*time.Second, time.Minute)),
		Restore:     sometimes(2, between(90*time.Second, 4*time.Minute)),
		ClockJump:   sometimes(3, between(20*time.Second, 2*time.Minute)),
	}
	o.Exclusive = o.Servers == 1 && r.IntN(2) == 0
	o.Shared = r.IntN(3)
	o.Operators = r.IntN(3) > 0
	return o
}

// Report is what a simulation found.
type Report struct {
	Options    Options
	Violations []string
	Coverage   map[string]int // how often what was to be provoked happened
	Hash       uint64         // of the whole trace
	Events     int            // of the simulation
	Simulated  time.Duration
	Trace      []string // its last lines, or all of it with Options.Trace
}

// Run plays one simulation to its end, or to the first violation.
func Run(o Options) Report {
	w := newWorld(o)
	defer w.stop()
	w.play()
	return Report{
		Options: o, Violations: w.violations, Coverage: w.cover, Hash: w.hash.Sum64(), Events: w.played,
		Simulated: time.Duration(w.now-origin) * time.Microsecond, Trace: w.lines,
	}
}

const origin = work.Time(1_750_000_000_000_000)

// world is everything there is.
type world struct {
	o          Options
	rng        *rand.Rand
	now        work.Time // the true time
	shift      work.Time // of the store's clock
	queue      events
	order      uint64
	played     int
	disk       *disk
	servers    []*server
	workers    []*worker
	clients    []*client
	serving    *server // who answers the request that is looked at
	plans      map[work.Digest]*planned
	checker    *checker
	violations []string
	cover      map[string]int
	hash       hash.Hash64
	lines      []string
	healing    bool
}

func newWorld(o Options) *world {
	w := &world{
		o: o, rng: rand.New(rand.NewPCG(o.Seed, 1)), now: origin, cover: map[string]int{}, hash: fnv.New64a(),
		plans: map[work.Digest]*planned{},
	}
	w.checker = newChecker(w)
	w.disk = newDisk(w)
	for i := range o.Servers {
		w.servers = append(w.servers, newServer(w, i))
	}
	for i := range o.Workers + o.Shared {
		w.workers = append(w.workers, newWorker(w, i))
	}
	for i := range 2 * o.Tenants {
		w.clients = append(w.clients, newClient(w, i))
	}
	if o.Operators {
		for i := range o.Tenants {
			newOperator(w, tenantName(i))
		}
		newOperator(w, store.Installation)
	}
	w.faults()
	return w
}

func (w *world) stop() {
	for _, s := range w.servers {
		s.close()
	}
}

// play lets things happen in the order of time until all is over.
func (w *world) play() {
	w.after(w.o.Chaos, w.heal)
	end := origin.Add(w.o.Chaos + w.o.Heal)
	for len(w.violations) == 0 && len(w.queue) > 0 {
		e := heap.Pop(&w.queue).(event)
		if e.at > end || w.healing && w.checker.allEnded() {
			break
		}
		w.now = max(w.now, e.at)
		w.played++
		e.do()
	}
	if len(w.violations) == 0 {
		w.checker.final()
	}
}

// heal ends the faults: from here on what was acknowledged must come to its end.
func (w *world) heal() {
	w.healing = true
	w.tell("faults end")
	for _, s := range w.servers {
		if s.down {
			s.start()
		}
	}
	for _, wk := range w.workers {
		if !wk.alive {
			wk.start()
		}
		wk.frozen = 0
	}
}

// event is something that will happen.
type event struct {
	at    work.Time
	order uint64
	do    func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}

func (w *world) after(d time.Duration, do func()) {
	w.order++
	heap.Push(&w.queue, event{w.now.Add(d), w.order, do})
}

// between draws a duration.
func (w *world) between(min, max time.Duration) time.Duration {
	return min + time.Duration(w.rng.Int64N(int64(max-min)))
}

// per is true n times in a thousand while there are faults.
func (w *world) per(thousand, n int) bool { return !w.healing && n > 0 && w.rng.IntN(thousand) < n }

// keptLines is how much of a trace is kept when nobody asked for all of it.
const keptLines = 40

// tell writes a line of the trace.
func (w *world) tell(format string, args ...any) {
	line := fmt.Sprintf("%12.6f ", time.Duration(w.now-origin).Seconds()*1e3) + fmt.Sprintf(format, args...)
	w.hash.Write([]byte(line))
	if !w.o.Trace && len(w.lines) >= 2*keptLines {
		w.lines = append(w.lines[:0], w.lines[keptLines:]...)
	}
	w.lines = append(w.lines, line)
}

func (w *world) violate(format string, args ...any) {
	v := fmt.Sprintf(format, args...)
	w.tell("VIOLATION %s", v)
	w.violations = append(w.violations, v)
}

// storeClock is the time by the one clock that all servers share.
func (w *world) storeClock() work.Time { return w.now + w.shift }

// faults starts everything that goes wrong by itself.
func (w *world) faults() {
	w.every(w.o.ServerCrash, func() { w.servers[w.rng.IntN(len(w.servers))].crash("by chance") })
	w.every(w.o.WorkerCrash, func() { w.workers[w.rng.IntN(len(w.workers))].crash() })
	w.every(w.o.WorkerPause, func() { w.workers[w.rng.IntN(len(w.workers))].freeze() })
	w.every(w.o.ClockJump, func() {
		w.shift += work.Time((w.rng.Int64N(40_000_000)) - 20_000_000)
		w.cover["clock jumps"]++
		w.tell("the store's clock is %v off", time.Duration(w.shift)*time.Microsecond)
	})
	w.every(w.o.Restore, w.disk.backupOrRestore)
}

// every does something at random times around a mean, until the faults end.
func (w *world) every(mean time.Duration, do func()) {
	if mean == 0 {
		return
	}
	w.after(w.between(mean/2, mean*3/2), func() {
		if w.healing {
			return
		}
		do()
		w.every(mean, do)
	})
}
