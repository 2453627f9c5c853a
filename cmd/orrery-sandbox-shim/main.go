// Command orrery-sandbox-shim is the first process of a sandbox as a program of its own. The build puts it into orrery, which starts it from
// memory for every step; nobody else has a use for it.
package main

import (
	"syscall"

	_ "orrery.example/orrery/internal/sandbox/linux/shim" // which takes over before main, as it does in every program that has it
)

func main() {
	_, _ = syscall.Write(2, []byte("orrery-sandbox-shim is started by orrery, for every step\n"))
	syscall.Exit(2)
}
