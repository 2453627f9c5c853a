package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/client"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/sandbox"
)

// Finding is one line of doctor.
type Finding = api.Check

func finding(check, result, detail, fix string) Finding {
	return Finding{Check: check, Result: result, Detail: detail, Fix: fix}
}

func (c *cli) doctorCommand() *cobra.Command {
	var ready string
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check this machine and the data folder, or a server", Args: atMost(0),
		Long: `Doctor tries what runs will need: the data folder, the speed of its disk, keys, and every layer of the sandbox by using it.
Where a server is meant, by --server or a context, it tries the way there, the token, and lets the server try its store, files and workers.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ready != "" {
				return c.askReady(cmd.Context(), ready)
			}
			s, err := c.server()
			if err != nil {
				return err
			}
			if s != nil {
				defer s.Close()
				return c.verdict(serverFindings(cmd.Context(), s), sandbox.Capability{})
			}
			o, err := c.folderOptions(true)
			if err != nil {
				return err
			}
			return c.verdict(c.checks(cmd.Context(), o))
		},
	}
	cmd.Flags().StringVar(&ready, "ready", "", "only ask the server at this address whether it is ready; needs no token")
	cmd.Flags().StringSliceVar(&c.withhold, "withhold", nil, "sandbox layers to do without, to see what would be refused")
	c.workFlags(cmd)
	return cmd
}

// askReady is for health checks where nothing but this program is at hand.
func (c *cli) askReady(ctx context.Context, address string) error {
	s, err := client.New(client.Config{URL: address, CAFile: c.caFile})
	if err != nil {
		return err
	}
	defer s.Close()
	r, err := s.Readiness(ctx)
	if err != nil {
		return err
	}
	if !r.Ready {
		return fault.New(fault.Unavailable, "%s is not ready", address).WithHint("it drains, or its store does not answer: look at its log")
	}
	return c.show(map[string]any{"ready": true, "version": r.Version}, func(out io.Writer) error {
		_, err := fmt.Fprintln(out, "ready", r.Version)
		return err
	})
}

// verdict shows what was found; the first failure is the error.
func (c *cli) verdict(findings []Finding, capability sandbox.Capability) error {
	if err := c.showFindings(findings, capability); err != nil {
		return err
	}
	for _, f := range findings {
		if f.Result == "fail" {
			return fault.New(fault.Internal, "%s: %s", f.Check, f.Detail).WithHint("%s", f.Fix)
		}
	}
	return nil
}

// serverFindings tries the way to a server and what it says of itself.
func serverFindings(ctx context.Context, s *client.Client) []Finding {
	r, err := s.Readiness(ctx)
	if err != nil {
		return []Finding{{Check: "server", Result: "fail", Detail: err.Error(), Fix: "is it running, and is --server right?"}}
	}
	out := []Finding{{Check: "server", Result: "pass", Detail: fmt.Sprintf("%s answers in %s", s.URL, r.Took.Round(10*time.Microsecond))}}
	if !r.Ready {
		out[0].Result, out[0].Fix = "fail", "it drains, or its store does not answer: look at its log"
	}
	version := Finding{Check: "version", Result: "pass", Detail: r.Version}
	if r.Version != Version {
		version.Result, version.Detail, version.Fix = "warn", fmt.Sprintf("the server is %s, this is %s", r.Version, Version), "use the same version"
	}
	clock := Finding{Check: "clock", Result: "pass", Detail: "agrees with this machine's"}
	if r.Skew != 0 {
		clock.Result, clock.Detail = "warn", fmt.Sprintf("the server is %s ahead", r.Skew)
		clock.Fix = "signatures and expiries depend on the time: let both follow a time server"
	}
	out = append(out, version, clock)
	if !r.Ends.IsZero() {
		f := Finding{Check: "connection", Result: "pass", Detail: "TLS, the certificate ends " + r.Ends.UTC().Format(time.DateOnly)}
		if time.Until(r.Ends) < 14*24*time.Hour {
			f.Result, f.Fix = "warn", "have it renewed"
		}
		out = append(out, f)
	}
	me, err := s.Me(ctx)
	if err != nil {
		return append(out, Finding{Check: "token", Result: "fail", Detail: err.Error(), Fix: "orrery login"})
	}
	out = append(out, Finding{Check: "token", Result: "pass", Detail: fmt.Sprintf("%s in tenant %s: %s", me.Subject, s.Tenant, strings.Join(me.Scopes, " "))})
	checks, err := s.Checks(ctx)
	if err != nil {
		return append(out, Finding{Check: "checks of the server", Result: "warn", Detail: err.Error(), Fix: "a token with the scope orch:read sees more"})
	}
	return append(out, checks...)
}

// checks tries everything.
func (c *cli) checks(ctx context.Context, o app.Options) ([]Finding, sandbox.Capability) {
	findings := []Finding{machineFinding()}
	findings = append(findings, folderFindings(o.Dir)...)
	findings = append(findings, keyFinding(o.Dir))
	capability, more := c.sandboxFindings(ctx, o)
	return append(findings, more...), capability
}

// findings are the checks for a debug bundle.
func (c *cli) findings(ctx context.Context, o app.Options) []Finding {
	out, _ := c.checks(ctx, o)
	return out
}

func (c *cli) showFindings(findings []Finding, capability sandbox.Capability) error {
	doc := map[string]any{"checks": findings}
	if capability.Label != "" {
		doc["sandbox"] = capability
	}
	return c.show(doc, func(out io.Writer) error {
		marks := map[string][2]string{"pass": {"32", "✓"}, "warn": {"33", "!"}, "fail": {"31", "✗"}}
		for _, f := range findings {
			m := marks[f.Result]
			fmt.Fprintf(out, "%s %-28s %s\n", c.paint(out, m[0], m[1]), f.Check, f.Detail)
			if f.Fix != "" {
				fmt.Fprintf(out, "    %s\n", f.Fix)
			}
		}
		return nil
	})
}

func machineFinding() Finding {
	return finding("machine", "pass", fmt.Sprintf("%s/%s, %d processors, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version()), "")
}

func folderFindings(dir string) []Finding {
	at := dir
	for {
		if _, err := os.Stat(at); err == nil || at == filepath.Dir(at) {
			break
		}
		at = filepath.Dir(at)
	}
	tmp, err := os.CreateTemp(at, ".orrery-doctor-")
	if err != nil {
		return []Finding{finding("data folder", "fail", fmt.Sprintf("%s cannot be written: %v", dir, err), "choose another with --data or ORRERY_DATA")}
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	out := []Finding{finding("data folder", "pass", dir, "")}
	const tries = 5
	begin := time.Now()
	for range tries {
		if _, err := tmp.Write(make([]byte, 4096)); err != nil {
			return append(out, finding("disk", "fail", err.Error(), "make room on the disk"))
		}
		if err := tmp.Sync(); err != nil {
			return append(out, finding("disk", "fail", err.Error(), "use a local disk"))
		}
	}
	sync := time.Since(begin) / tries
	f := finding("disk", "pass", fmt.Sprintf("a durable write takes %s", sync.Round(10*time.Microsecond)), "")
	if sync > 50*time.Millisecond {
		f.Result, f.Fix = "warn", "every commit waits this long: a faster disk makes everything faster"
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(at, &st); err == nil {
		free := int64(st.Bavail) * st.Bsize
		f.Detail += fmt.Sprintf(", %d MiB free", free>>20)
		if free < 1<<30 {
			f.Result, f.Fix = "warn", "less than 1 GiB is free"
		}
	}
	return append(out, f)
}

func keyFinding(dir string) Finding {
	trust, err := keyring.Open(dir).Trust()
	if err != nil {
		return finding("keys", "fail", err.Error(), "restore keyring.json from a backup")
	}
	if len(trust.Keys) == 0 {
		return finding("keys", "pass", "none yet; the first run makes them", "")
	}
	return finding("keys", "pass", fmt.Sprintf("%d trusted", len(trust.Keys)), "")
}

func (c *cli) sandboxFindings(ctx context.Context, o app.Options) (sandbox.Capability, []Finding) {
	d, err := app.NewSandbox(o)
	if err != nil {
		return sandbox.Capability{}, []Finding{finding("sandbox", "fail", err.Error(), "")}
	}
	capability := d.Probe(ctx)
	sum := finding("sandbox", "pass", "steps can ask for up to tier "+capability.Label, "")
	if capability.Tier < sandbox.T2 {
		sum.Result = "warn"
		sum.Fix = "steps ask for tier t2 unless their pack says otherwise, and are refused here; see docs/tasks/sandbox.md"
	}
	out := []Finding{sum}
	for _, l := range capability.Layers {
		f := finding("sandbox: "+l.Name, "pass", l.Detail, "")
		if !l.Available {
			f.Result = "warn"
		}
		out = append(out, f)
	}
	return capability, out
}
