package control

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
)

// newNames returns names that are easy to say and type, of which a run takes the first that is free: two words, and then two words with a
// number, of which there are too many to run out. Those of many runs at once have numbers: the short ones would soon be gone.
func newNames(short bool) []string {
	var names []string
	if short {
		names = append(names, twoWords(), twoWords())
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	number := binary.BigEndian.Uint64(b[:])
	return append(names, fmt.Sprintf("%s-%04d", twoWords(), 1000+number%9000), fmt.Sprintf("%s-%09d", twoWords(), number%1_000_000_000))
}

func twoWords() string {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	adjectives, nouns := wordLists()
	return adjectives[int(b[0])%len(adjectives)] + "-" + nouns[int(b[1])%len(nouns)]
}

// wordLists are split once.
var wordLists = sync.OnceValues(func() (adjectives, nouns []string) {
	return strings.Fields(adjectiveList), strings.Fields(nounList)
})

const adjectiveList = `amber azure bold brave bright brisk calm clear clever cool copper coral crisp daring deep distant early
eager fair fast fine first gentle glad golden grand green happy hazel humble indigo ivory jolly keen kind lively lone lucky
lunar mellow mild misty modest noble north olive patient plain polar proud quick quiet rapid ready rosy royal ruby rustic sage
scarlet sharp silent silver simple sleek smart solar solid south steady still stout subtle sunny swift tidy vivid warm west wise young`

const nounList = `acorn alder anchor aspen badger beacon birch bison brook canyon cedar cloud comet coral crane creek delta dove
eagle elm ember falcon fern finch fjord forest fox glacier harbor hare hawk heron hill ibis iris jay juniper kestrel lagoon lake
lark laurel linden lotus lynx maple marten meadow mesa moon moss mountain oak ocean orchid osprey otter owl panther pearl
peak pine plover pond poplar prairie quail quartz raven reef ridge river robin rowan sail sparrow spruce star stone stork
summit swan thistle thrush tiger trout tulip valley walnut wave willow wolf wren`
