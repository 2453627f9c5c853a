package arch

import (
	"bytes"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// A path of the machine that something was written on means nothing on any other.
var machinePath = regexp.MustCompile(`(^|[^A-Za-z0-9_.~*/})-])/([w]ork/|[f]arm\b|[r]oot/\.|[h]ome/[a-z]+/|[U]sers/[a-z]+/)`)

// CheckWords finds paths of one machine, and the hosts given, in any text file of the tree.
func CheckWords(t *Tree, hosts []string) []Finding {
	var out []Finding
	for _, text := range t.Texts {
		for i, line := range bytes.Split(text.Data, []byte("\n")) {
			if m := machinePath.Find(line); m != nil {
				path := strings.TrimLeft(string(m), " \t\"'`(=:,")
				out = append(out, Finding{Check: "word", Where: text.Path, Subject: path, Say: fmt.Sprintf(
					"line %d names %s, a path of one machine. Write what a reader anywhere has: a relative path, a temporary folder.", i+1, path)})
			}
			for _, host := range hosts {
				if bytes.Contains(line, []byte(host)) {
					out = append(out, Finding{Check: "word", Where: text.Path, Subject: "registry", Say: fmt.Sprintf(
						"line %d names the package registry that this machine happens to use. Registries come from the environment.", i+1)})
				}
			}
		}
	}
	return out
}

// publicHosts are the defaults of the tools; naming one gives nothing away.
func publicHost(host string) bool {
	return slices.Contains([]string{"proxy.golang.org", "sum.golang.org", "pypi.org", "registry.npmjs.org", "localhost", "127.0.0.1", ""}, host)
}

// Hosts returns the names of hosts in settings of package registries, without the public defaults.
func Hosts(settings ...string) []string {
	var out []string
	for _, s := range settings {
		for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == '|' || r == ' ' || r == '\n' }) {
			u, err := url.Parse(part)
			if err == nil && !publicHost(u.Hostname()) && !slices.Contains(out, u.Hostname()) {
				out = append(out, u.Hostname())
			}
		}
	}
	return out
}
