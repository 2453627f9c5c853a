package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"orrery.example/orrery/internal/store"
)

// completeRuns lets the shell complete names of runs for every command that takes one. It is silent when it cannot.
func (c *cli) completeRuns(cmd *cobra.Command) {
	if strings.Contains(cmd.Use, "RUN") {
		cmd.ValidArgsFunction = func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			directive := cobra.ShellCompDirectiveNoFileComp
			if strings.Contains(cmd.Use, "FILE") {
				directive = cobra.ShellCompDirectiveDefault
			}
			return c.runNames(typed), directive
		}
	}
	for _, sub := range cmd.Commands() {
		c.completeRuns(sub)
	}
}

func (c *cli) runNames(typed string) []string {
	const enough, patience = 100, 500 * time.Millisecond
	ctx, stop := context.WithTimeout(context.Background(), patience)
	defer stop()
	f, err := c.open(ctx, true)
	if err != nil {
		return nil
	}
	defer f.Close()
	runs, err := f.Store.Find(ctx, f.Tenant, store.RunQuery{Limit: enough})
	if err != nil {
		return nil
	}
	var names []string
	for i := range runs {
		if strings.HasPrefix(runs[i].Name, typed) {
			names = append(names, runs[i].Name+"\t"+runs[i].State.Word().Word+", "+runs[i].Pack.Name)
		}
	}
	return names
}
