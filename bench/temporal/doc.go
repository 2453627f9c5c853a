// Package temporal names the version of Temporal's dev server that the bench builds. It is a module of its own, because the server's
// requirements are many and others than those of the bench.
package temporal
