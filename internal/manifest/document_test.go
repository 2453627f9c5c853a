package manifest_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"orrery.example/orrery/internal/manifest"
)

// TestDocument reads every example of the reference as what it is a part of.
func TestDocument(t *testing.T) {
	data, err := os.ReadFile("../../docs/reference/pack.md")
	if err != nil {
		t.Fatal(err)
	}
	const inputs = "inputs: {name: string, n: integer, token: secret, region: string}\n"
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(data), -1)
	checked := 0
	for _, b := range blocks {
		text := b[1]
		switch {
		case strings.HasPrefix(text, "# yaml-language-server"):
			continue
		case strings.HasPrefix(text, "- "):
			text = inputs + "steps:\n" + text
		case strings.HasPrefix(text, "inputs:"):
			text += "steps: [{run: x}]\n"
		case strings.HasPrefix(text, "outputs:"):
			text = "steps:\n- run: x\n  " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n  ") + "\n"
		}
		checked++
		if _, err := manifest.Parse("pack.md", []byte(text)); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	}
	if checked < 9 {
		t.Errorf("only %d examples", checked)
	}
}
