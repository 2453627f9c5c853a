// Package arch keeps the shape of the tree: who may import whom, what the pure packages may not touch, how large things get.
//
// The rules are data. layers.txt says for every package which ring it is in and for every rule why there is one;
// exceptions.txt lists what may differ, each entry with its reason. A package that is in no ring fails, an exception
// that nothing needs any more fails, so neither file can go stale. The package reads source text only; it builds and
// runs nothing.
package arch
