// Package image is the shim of the sandbox as a program of its own, if the build carries it: with the tag "carried", as make build does. The
// program that carries it has the same code, and is its own shim otherwise.
package image

// Bytes is the executable, for the machine that this program was built for, and empty in a build without it.
func Bytes() string { return carried }
