package chunk

import (
	"encoding/binary"

	"orrery.example/orrery/internal/work"
)

// What the byte before each line says: which of its fields are as in the line before.
const (
	lineSameStep    = 1 << 0
	lineSameAttempt = 1 << 1
	lineSameLevel   = 1 << 2
	lineSameType    = 1 << 3
)

// AppendLines appends the stored form of lines that follow each other in one run.
func AppendLines(dst []byte, lines []work.LogLine) []byte {
	dst = append(dst, linesV1)
	dst = binary.AppendUvarint(dst, uint64(len(lines)))
	var before work.LogLine
	for i := range lines {
		l := &lines[i]
		flags := byte(0)
		if l.Step == before.Step {
			flags |= lineSameStep
		}
		if l.Attempt == before.Attempt {
			flags |= lineSameAttempt
		}
		if l.Level == before.Level {
			flags |= lineSameLevel
		}
		if l.EventType == before.EventType {
			flags |= lineSameType
		}
		dst = append(dst, flags)
		dst = binary.AppendVarint(dst, int64(l.Time-before.Time))
		if flags&lineSameStep == 0 {
			dst = appendText(dst, string(l.Step))
		}
		if flags&lineSameAttempt == 0 {
			dst = binary.AppendVarint(dst, int64(l.Attempt))
		}
		if flags&lineSameLevel == 0 {
			dst = appendText(dst, l.Level)
		}
		if flags&lineSameType == 0 {
			dst = appendText(dst, l.EventType)
		}
		dst = appendText(dst, l.Message)
		before = *l
	}
	return dst
}

// Lines returns the lines of a stored form whose first has the number first. Error: fault.Internal for bytes that
// AppendLines did not write.
func Lines(run work.RunID, first int64, body []byte) ([]work.LogLine, error) {
	c := cursor{rest: body}
	if c.one() != linesV1 {
		return nil, damaged("lines", run, first)
	}
	count := c.number()
	if count > uint64(len(body))/3 { // a line has three bytes at least
		return nil, damaged("lines", run, first)
	}
	lines := make([]work.LogLine, 0, count)
	var l work.LogLine
	for i := range int64(count) {
		flags := c.one()
		l.Run, l.Seq = run, first+i
		l.Time += work.Time(c.signed())
		if flags&lineSameStep == 0 {
			l.Step = work.StepID(c.text())
		}
		if flags&lineSameAttempt == 0 {
			l.Attempt = int(c.signed())
		}
		if flags&lineSameLevel == 0 {
			l.Level = c.text()
		}
		if flags&lineSameType == 0 {
			l.EventType = c.text()
		}
		l.Message = c.text()
		lines = append(lines, l)
	}
	if c.broken || len(c.rest) > 0 {
		return nil, damaged("lines", run, first)
	}
	return lines, nil
}
