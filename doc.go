// Package orrery is the Go SDK: a client that asks a server for runs, and a worker that runs steps for it.
//
// It depends on the standard library only, and speaks the two protocols that the reference describes: the REST API
// (/.well-known/openapi of every server) and the worker protocol (docs/reference/worker-protocol.md).
package orrery
