package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/control"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/pack"
	"orrery.example/orrery/internal/plan"
	"orrery.example/orrery/internal/span"
	"orrery.example/orrery/internal/work"
	"orrery.example/orrery/internal/worker"
)

// runFlags are the flags of everything that starts a run.
type runFlags struct {
	inputs []string
	file   string
	note   string
	token  string
	labels []string
	at     string
	after  time.Duration
	fresh  bool
	wait   bool
	detach bool

	created bool // the run was made just now, so it is shown from its beginning
}

func (c *cli) workFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.IntVar(&c.slots, "slots", 0, "steps at once (default: twice the processors)")
	f.BoolVar(&c.unsandbox, "allow-unsandboxed", false, "permit steps that ask for tier t0 where the machine has no sandbox")
	f.StringArrayVar(&c.readPaths, "read-path", nil, "a host path that every step may read (may be repeated)")
	f.StringVar(&c.stepPath, "step-path", "", "PATH of steps (default: the system's folders)")
	f.StringVar(&c.engines, "policy-engines", "", "file with the policy engines that gates may name (default: $ORRERY_POLICY_ENGINES)")
	c.kernelFlag(cmd)
}

func (c *cli) kernelFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.runsc, "runsc", envOr("ORRERY_RUNSC", ""), "gVisor's program, for sandbox tier t3 (default: $ORRERY_RUNSC, else runsc in PATH)")
}

func (r *runFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVarP(&r.inputs, "input", "i", nil, "an input as NAME=VALUE; a secret as NAME=env:VARIABLE or NAME=file:/path (may be repeated)")
	f.StringVar(&r.file, "inputs", "", "a JSON or YAML file with inputs")
}

func (r *runFlags) addStart(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&r.note, "note", "", "why you run it; it goes into the evidence")
	f.StringVar(&r.token, "token", "", "idempotency token: the same token again gives the same run")
	f.StringArrayVar(&r.labels, "label", nil, "KEY=VALUE to find the run by (may be repeated)")
	f.StringVar(&r.at, "at", "", "start no sooner than this time, like 2026-01-02T03:04:05Z")
	f.DurationVar(&r.after, "after", 0, "start no sooner than in so long, like 90m")
	r.addWait(cmd)
}

func (r *runFlags) addWait(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&r.wait, "wait", false, "stay while the run waits for people")
	f.BoolVar(&r.detach, "detach", false, "go on in the background and return at once")
}

func (c *cli) runCommand() *cobra.Command {
	var r runFlags
	cmd := &cobra.Command{
		Use:   "run FILE",
		Short: "Run a pack on this machine and follow it",
		Long: `Run executes a pack: a folder with a pack.yaml, or one YAML file. The exit code is the result of the run:
0 succeeded, 3 failed, 8 waits for an approval. Ctrl-C cancels the run; SIGTERM stops this process and leaves the run. A run that was
interrupted is carried on by the same command: what had succeeded does not run again.`,
		Example: `  orrery run hello.yaml
  orrery run examples/tour --input name=world
  orrery run deploy --input token=env:DEPLOY_TOKEN -o json`,
		Args: exactly(1, "the file or folder of a pack"),
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args[0], &r) },
	}
	r.add(cmd)
	r.addStart(cmd)
	cmd.Flags().BoolVar(&r.fresh, "new", false, "start a new run even when one of the same plan is unfinished")
	c.workFlags(cmd)
	return cmd
}

func (c *cli) run(ctx context.Context, path string, r *runFlags) error {
	p, built, err := c.buildPlan(path, r)
	if err != nil {
		return err
	}
	f, err := c.open(ctx, false)
	if err != nil {
		return err
	}
	defer f.Close()
	run, err := c.startOrCarryOn(ctx, f, p, built, r)
	if err != nil {
		return err
	}
	return c.drive(ctx, f, run, r)
}

func (c *cli) startOrCarryOn(ctx context.Context, f *place, p *pack.Pack, built *plan.Built, r *runFlags) (work.Run, error) {
	if !r.fresh && r.token == "" {
		earlier, err := f.Control.Unfinished(ctx, f.Tenant, built.Hash)
		if err != nil {
			return work.Run{}, err
		}
		if earlier != nil {
			if earlier.State.Terminal() {
				c.say("%s ended while nobody watched; this is its result (--new starts another)", earlier.Name)
			} else {
				c.say("carrying on %s, which is not finished (--new starts another)", earlier.Name)
			}
			return *earlier, nil
		}
	}
	sub, err := c.submission(r)
	if err != nil {
		return work.Run{}, err
	}
	sub.Built = built
	run, err := f.Submit(ctx, p, sub)
	if err != nil {
		return work.Run{}, err
	}
	r.created = true
	c.say("plan   %s   %s", built.Hash.Short(), planSummary(built.Plan))
	c.say("run    %s   %s", c.paint(c.Err, "1", run.Name), run.ID)
	return run, nil
}

func (c *cli) submission(r *runFlags) (control.Submission, error) {
	outlive()
	labels := map[string]string{}
	for _, l := range r.labels {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return control.Submission{}, fault.New(fault.Invalid, "label %q is not KEY=VALUE", l)
		}
		labels[k] = v
	}
	notBefore, err := r.notBefore()
	return control.Submission{Note: r.note, RunToken: r.token, Labels: labels, Trace: traceOfEnvironment(), Project: c.project, At: notBefore}, err
}

// notBefore is when the run may start, 0 for at once.
func (r *runFlags) notBefore() (work.Time, error) {
	switch {
	case r.at != "" && r.after != 0:
		return 0, fault.New(fault.Invalid, "--at and --after both say when the run starts")
	case r.after < 0:
		return 0, fault.New(fault.Invalid, "--after %s has passed", r.after)
	case r.after > 0:
		return app.Now().Add(r.after), nil
	case r.at == "":
		return 0, nil
	}
	return instant("--at", r.at)
}

// traceOfEnvironment is the trace of whatever calls the program, as tools that trace themselves hand it on.
func traceOfEnvironment() work.Trace {
	if _, ok := span.Parse(os.Getenv("TRACEPARENT")); !ok {
		return work.Trace{Baggage: span.Baggage(os.Getenv("BAGGAGE"))}
	}
	return work.Trace{Parent: os.Getenv("TRACEPARENT"), State: span.State(os.Getenv("TRACESTATE")), Baggage: span.Baggage(os.Getenv("BAGGAGE"))}
}

// outlive lets the process go on when nobody reads its output any more: a run does not end because somebody piped it to "head".
func outlive() { signal.Ignore(syscall.SIGPIPE) }

// drive works on a run in this process, shows it, and ends with its result.
func (c *cli) drive(ctx context.Context, f *place, run work.Run, r *runFlags) error {
	if r.detach && !run.State.Terminal() {
		return c.background(ctx, f, run)
	}
	outlive()
	work, stopWork := context.WithCancelCause(ctx)
	defer stopWork(nil)
	var finish func() error
	if !run.State.Terminal() {
		var err error
		if finish, err = f.Start(work); err != nil {
			return err
		}
	}
	w, err := c.newFollower(ctx, f, run, r)
	if err != nil {
		return err
	}
	release := c.onSignal(ctx, f, &run, func() { stopWork(worker.ErrAbandoned) })
	final, err := w.follow(work)
	terminated := context.Cause(work) != nil
	stopWork(nil)
	if finish != nil {
		if e := finish(); err == nil {
			err = e
		}
	}
	interrupted := release()
	if terminated && !final.State.Terminal() {
		return fault.New(fault.Interrupted, "stopped by a signal; run %s is not finished", run.Name).WithHint("orrery runs resume %s", run.Name)
	}
	if err != nil {
		return err
	}
	return c.conclude(ctx, f, w, final, interrupted)
}

// sameKeystroke is how long a second signal counts as the first: some programs pass one on to the process and to its group.
const sameKeystroke = 300 * time.Millisecond

// onSignal cancels the run at the first Ctrl-C. SIGTERM asks this process to go, not the run to end: terminate stops the work, and the run
// can be carried on. The second signal of any kind ends the process at once, and the sandbox dies with it. The returned function stops
// listening and tells whether the run was cancelled.
func (c *cli) onSignal(ctx context.Context, f *place, run *work.Run, terminate func()) func() bool {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan bool)
	stop := make(chan struct{})
	go func() {
		seen, cancelled := false, false
		var first time.Time
		for {
			select {
			case <-stop:
				done <- cancelled
				return
			case s := <-signals:
				if seen && time.Since(first) < sameKeystroke {
					continue
				}
				if seen {
					os.Exit(fault.ExitInterrupted)
				}
				seen, first = true, time.Now()
				if s == syscall.SIGTERM {
					c.say("\n%s: stopping; what runs of %s is stopped and will begin again", s, run.Name)
					terminate()
					continue
				}
				cancelled = true
				c.say("\n%s: cancelling %s; once more kills it", s, run.Name)
				err := f.Control.Control(ctx, run.Tenant, run.ID, "cancel", work.Actor{Name: c.person(), Reason: "interrupted from the keyboard"})
				if err != nil {
					c.say("it could not be cancelled: %v", err)
				}
			}
		}
	}()
	return func() bool {
		signal.Stop(signals)
		close(stop)
		return <-done
	}
}

// conclude seals the run, says how it ended and returns its result.
func (c *cli) conclude(ctx context.Context, f *place, w *follower, run work.Run, interrupted bool) error {
	gates, err := f.Control.Gates(ctx, run)
	if err != nil {
		return err
	}
	if c.machine() {
		err = c.emit(runResult(&run, gates))
	} else {
		c.farewell(ctx, f, w, &run, gates)
	}
	if err != nil {
		return err
	}
	if run.State.Terminal() {
		if err := f.Settle(ctx, run); err != nil {
			return err
		}
	}
	if interrupted && run.State == work.Cancelled {
		return fault.New(fault.Interrupted, "run %s was cancelled from the keyboard", run.Name)
	}
	return outcome(&run)
}

// RunResult is what commands that run something print with -o json.
type RunResult struct {
	Run      work.RunID      `json:"run"`
	Name     string          `json:"name"`
	Status   work.State      `json:"status"`
	Reason   work.Reason     `json:"reason,omitzero"`
	PlanHash work.Digest     `json:"planHash"`
	Pack     work.PackRef    `json:"pack"`
	Created  work.Time       `json:"created"`
	Ended    work.Time       `json:"ended,omitzero"`
	Outputs  json.RawMessage `json:"outputs,omitempty"`
	Waiting  []work.StepID   `json:"waiting,omitempty"` // gates
}

func runResult(run *work.Run, gates []work.Step) RunResult {
	r := RunResult{
		Run: run.ID, Name: run.Name, Status: run.State, Reason: run.Reason, PlanHash: run.PlanHash, Pack: run.Pack,
		Created: run.Created, Ended: run.Ended, Outputs: run.Outputs,
	}
	for i := range gates {
		r.Waiting = append(r.Waiting, gates[i].ID)
	}
	if len(gates) > 0 && !run.State.Terminal() {
		r.Status = work.Waiting
	}
	return r
}

func (c *cli) farewell(ctx context.Context, f *place, w *follower, run *work.Run, gates []work.Step) {
	if !run.State.Terminal() {
		c.say("")
		for i := range gates {
			c.say("%s  %s waits for an approval, until %s", c.badge(c.Err, work.Waiting), gates[i].ID, gates[i].Reason.Until)
			c.say("  look:     orrery runs show %s", run.Name)
			c.say("  approve:  orrery approve %s --gate %s --reason \"…\" --as SOMEBODY_ELSE", run.Name, gates[i].ID)
		}
		if run.Paused != nil {
			c.say("paused by %s: %s\n  go on:  orrery runs resume %s", run.Paused.Name, run.Paused.Reason, run.Name)
		}
		return
	}
	for _, s := range w.failedSteps() {
		c.say("\n%s  %s  %s", c.badge(c.Err, s.state), s.id, s.reason.Message)
		c.lastLines(ctx, f, run, s.id, 20)
	}
	c.say("\n%s  %s  %s", c.badge(c.Err, run.State), c.paint(c.Err, "1", run.Name), duration(run.Ended.Sub(run.Created)))
	if len(run.Outputs) > 0 {
		fmt.Fprintf(c.Out, "%s\n", run.Outputs)
	}
	if run.State == work.Succeeded {
		c.say("  verify:   orrery verify %s", run.Name)
		return
	}
	c.say("  why:      orrery why %s\n  retry:    orrery runs retry %s", run.Name, run.Name)
}

// lastLines prints the end of a step's output, as a failed step's is what one looks for.
func (c *cli) lastLines(ctx context.Context, f *place, run *work.Run, step work.StepID, n int) {
	var last []work.LogLine
	err := eachLine(ctx, f.Store, run, 1, func(l *work.LogLine) {
		if l.Step == step {
			if last = append(last, *l); len(last) > n {
				last = last[1:]
			}
		}
	})
	if err != nil {
		return // the result of the run matters more than its log
	}
	for i := range last {
		c.say("    %s", last[i].Message)
	}
}

// background hands the run to a process of its own.
func (c *cli) background(ctx context.Context, f *place, run work.Run) error {
	if f.folder == nil { // a server goes on by itself
		if c.machine() {
			return c.emit(runResult(&run, nil))
		}
		c.say("%s goes on at the server\n  look:  orrery runs show %s", run.Name, run.Name)
		return nil
	}
	args := []string{"runs", "resume", string(run.ID), "--wait", "--quiet", "--data", f.folder.Dir, "--tenant", string(f.Tenant)}
	for _, p := range c.readPaths {
		args = append(args, "--read-path", p)
	}
	if c.stepPath != "" {
		args = append(args, "--step-path", c.stepPath)
	}
	if c.runsc != "" {
		args = append(args, "--runsc", c.runsc)
	}
	if c.slots != 0 {
		args = append(args, "--slots", strconv.Itoa(c.slots))
	}
	if c.engines != "" {
		args = append(args, "--policy-engines", c.engines)
	}
	if c.unsandbox {
		args = append(args, "--allow-unsandboxed")
	}
	if c.identity != "" {
		args = append(args, "--as", c.identity)
	}
	if err := f.Close(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fault.Wrap(fault.Internal, err, "own program")
	}
	child := exec.CommandContext(context.WithoutCancel(ctx), self, args...)
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := child.Start(); err != nil {
		return fault.Wrap(fault.Internal, err, "background process")
	}
	if c.machine() {
		return c.emit(runResult(&run, nil))
	}
	c.say("%s goes on in the background (process %d)\n  look:  orrery runs show %s", run.Name, child.Process.Pid, run.Name)
	return child.Process.Release()
}
