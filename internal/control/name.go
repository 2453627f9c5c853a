package control

import (
	"crypto/rand"
	"fmt"
	"strings"
)

// maxNames is how many names are tried for a run before a number is put behind them for good.
const maxNames = 20

// firstLong is the first attempt whose name is made longer by a number.
const firstLong = 3

// newName returns two words that are easy to say and type, at later attempts with a number.
func newName(attempt int) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails, by its documentation
	adjectives, nouns := strings.Fields(adjectiveList), strings.Fields(nounList)
	name := adjectives[int(b[0])%len(adjectives)] + "-" + nouns[int(b[1])%len(nouns)]
	if attempt >= firstLong {
		name += fmt.Sprintf("-%d", (int(b[2])<<8|int(b[3]))%9000+1000)
	}
	return name
}

const adjectiveList = `amber azure bold brave bright brisk calm clear clever cool copper coral crisp daring deep distant early
eager fair fast fine first gentle glad golden grand green happy hazel humble indigo ivory jolly keen kind lively lone lucky
lunar mellow mild misty modest noble north olive patient plain polar proud quick quiet rapid ready rosy royal ruby rustic sage
scarlet sharp silent silver simple sleek smart solar solid south steady still stout subtle sunny swift tidy vivid warm west wise young`

const nounList = `acorn alder anchor aspen badger beacon birch bison brook canyon cedar cloud comet coral crane creek delta dove
eagle elm ember falcon fern finch fjord forest fox glacier harbor hare hawk heron hill ibis iris jay juniper kestrel lagoon lake
lark laurel linden lotus lynx maple marten meadow mesa moon moss mountain oak ocean orchid osprey otter owl panther pearl
peak pine plover pond poplar prairie quail quartz raven reef ridge river robin rowan sail sparrow spruce star stone stork
summit swan thistle thrush tiger trout tulip valley walnut wave willow wolf wren`
