package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"orrery.example/orrery/api"
	"orrery.example/orrery/internal/fault"
)

func (c *cli) rulesCommand() *cobra.Command {
	return c.grouped("rules", "Say whose signatures may run what in a tenant of a server", c.showRulesCommand(), c.setRulesCommand())
}

func (c *cli) showRulesCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show the rules", Args: atMost(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.remote()
			if err != nil {
				return err
			}
			defer s.Close()
			r, err := s.RunRules(cmd.Context())
			if err != nil {
				return err
			}
			return c.showRules(r)
		},
	}
}

func (c *cli) showRules(r api.RunRules) error {
	return c.show(r, func(out io.Writer) error {
		if len(r.Rules) == 0 {
			_, err := fmt.Fprintln(out, "no rules: whoever is trusted to submit may run everything")
			return err
		}
		lines := [][]string{{"PACK", "SUBMITTERS", "SIGNED BY ONE OF"}}
		for _, x := range r.Rules {
			lines = append(lines, []string{x.Pack, strings.Join(x.Submitters, " "), strings.Join(x.Authors, " ")})
		}
		return columns(out, lines)
	})
}

func (c *cli) setRulesCommand() *cobra.Command {
	return &cobra.Command{
		Use: "set FILE", Short: "Replace the rules by those of a file", Args: exactly(1, "a file with rules"),
		Long: `Set replaces the rules. The first rule that fits a pack decides; where there are rules, what fits none is refused. A file with {"rules": []} lets
everything in again.`,
		Example: `  echo '{"rules": [{"pack": "deploy-*", "submitters": ["alice"], "authors": ["release-team"]}, {"pack": "*", "submitters": ["*"]}]}' > rules.json
  orrery rules set rules.json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			raw, err := os.ReadFile(args[0])
			if err != nil {
				return fault.New(fault.NotFound, "the rules: %v", err)
			}
			dec := json.NewDecoder(strings.NewReader(string(raw)))
			dec.DisallowUnknownFields()
			var q api.RunRules
			if err := dec.Decode(&q); err != nil {
				return fault.New(fault.Invalid, "%s holds no rules: %v", args[0], err).WithHint(`write {"rules": [{"pack": "*", "submitters": ["alice"]}]}`)
			}
			s, err := c.remote()
			if err != nil {
				return err
			}
			defer s.Close()
			set, err := s.SetRunRules(cmd.Context(), q)
			if err != nil {
				return err
			}
			return c.showRules(set)
		},
	}
}
