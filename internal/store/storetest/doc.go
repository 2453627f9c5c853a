// Package storetest is the one suite that every driver and every store has to pass.
//
// RunDriver holds a kernel.Driver to its contract row by row, with the driver in memory as the model. Run holds the store over a
// driver to what package store promises: each command, the wall between tenants, fencing, group commit, crashes.
package storetest
