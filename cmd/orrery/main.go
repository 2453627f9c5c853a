// Command orrery runs work that must be provable: on a laptop, on a fleet or on a site without a network.
package main

import (
	"os"

	"orrery.example/orrery/internal/cli"
	"orrery.example/orrery/internal/sandbox/linux"
)

func main() {
	// The sandbox executes this binary again as its first process; nothing else may happen before.
	if linux.IsShim(os.Args) {
		os.Exit(linux.ShimMain(os.Args))
	}
	os.Exit(cli.Main(os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
