package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/app"
	"orrery.example/orrery/internal/fault"
	"orrery.example/orrery/internal/keyring"
	"orrery.example/orrery/internal/sandbox"
)

// Finding is one line of doctor.
type Finding struct {
	Check  string `json:"check"`
	Result string `json:"result"` // pass, warn, fail
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

func (c *cli) doctorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "doctor", Short: "Check this machine and the data folder", Args: atMost(0),
		Long: "Doctor tries what runs will need: the data folder, the speed of its disk, keys, and every layer of the sandbox by using it.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := c.folderOptions(true)
			if err != nil {
				return err
			}
			findings := []Finding{machineFinding()}
			findings = append(findings, folderFindings(o.Dir)...)
			findings = append(findings, keyFinding(o.Dir))
			capability, more := c.sandboxFindings(cmd.Context(), o)
			findings = append(findings, more...)
			if err := c.showFindings(findings, capability); err != nil {
				return err
			}
			for _, f := range findings {
				if f.Result == "fail" {
					return fault.New(fault.Internal, "%s: %s", f.Check, f.Detail).WithHint("%s", f.Fix)
				}
			}
			return nil
		},
	}
	cmd.Flags().StringSliceVar(&c.withhold, "withhold", nil, "sandbox layers to do without, to see what would be refused")
	c.workFlags(cmd)
	return cmd
}

func (c *cli) showFindings(findings []Finding, capability sandbox.Capability) error {
	return c.show(map[string]any{"checks": findings, "sandbox": capability}, func(out io.Writer) error {
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
	return Finding{"machine", "pass", fmt.Sprintf("%s/%s, %d processors, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version()), ""}
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
		return []Finding{{"data folder", "fail", fmt.Sprintf("%s cannot be written: %v", dir, err), "choose another with --data or ORRERY_DATA"}}
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	out := []Finding{{"data folder", "pass", dir, ""}}
	const tries = 5
	begin := time.Now()
	for range tries {
		if _, err := tmp.Write(make([]byte, 4096)); err != nil {
			return append(out, Finding{"disk", "fail", err.Error(), "make room on the disk"})
		}
		if err := tmp.Sync(); err != nil {
			return append(out, Finding{"disk", "fail", err.Error(), "use a local disk"})
		}
	}
	sync := time.Since(begin) / tries
	f := Finding{"disk", "pass", fmt.Sprintf("a durable write takes %s", sync.Round(10*time.Microsecond)), ""}
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
		return Finding{"keys", "fail", err.Error(), "restore keyring.json from a backup"}
	}
	if len(trust.Keys) == 0 {
		return Finding{"keys", "pass", "none yet; the first run makes them", ""}
	}
	return Finding{"keys", "pass", fmt.Sprintf("%d trusted", len(trust.Keys)), ""}
}

func (c *cli) sandboxFindings(ctx context.Context, o app.Options) (sandbox.Capability, []Finding) {
	d, err := app.NewSandbox(o)
	if err != nil {
		return sandbox.Capability{}, []Finding{{"sandbox", "fail", err.Error(), ""}}
	}
	capability := d.Probe(ctx)
	sum := Finding{"sandbox", "pass", "steps can ask for up to tier " + capability.Label, ""}
	if capability.Tier < sandbox.T2 {
		sum.Result = "warn"
		sum.Fix = "steps ask for tier t2 unless their pack says otherwise, and are refused here; see docs/tasks/sandbox.md"
	}
	out := []Finding{sum}
	for _, l := range capability.Layers {
		f := Finding{"sandbox: " + l.Name, "pass", l.Detail, ""}
		if !l.Available {
			f.Result = "warn"
		}
		out = append(out, f)
	}
	return capability, out
}
