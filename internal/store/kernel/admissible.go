package kernel

import (
	"orrery.example/orrery/internal/canonical"
	"orrery.example/orrery/internal/fault"
)

// maxGiven bounds what one command may bring into the history: less than an event holds, because the engine adds to it.
const maxGiven = 3 << 20

// admissible refuses what no event can hold: a number with a fraction, text that is no text, too much of it. Once the engine
// has taken such a thing its event cannot be written, and the whole transaction fails with everybody's commands in it,
// every time that the command is sent again.
func admissible(given any) error {
	if _, err := canonical.MarshalUpTo(given, maxGiven); err != nil {
		return fault.Wrap(fault.Invalid, err, "this cannot become part of a run's history")
	}
	return nil
}
