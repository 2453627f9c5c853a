// Command orrery runs work that must be provable: on a laptop, on a fleet or on a site without a network.
package main

import (
	"os"

	"orrery.example/orrery/internal/cli"
	_ "orrery.example/orrery/internal/heap" // no collection before there is something to collect
)

func main() {
	os.Exit(cli.Main(os.Args[1:], cli.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
