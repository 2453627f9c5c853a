package linux

import (
	"errors"
	"os"
	"strconv"
	"strings"
)

// standing says what being root is worth: whether steps can be given host users of their own.
//
// Below "unshare -r", and in containers without a daemon, root is an ordinary user of the machine under another name, without other users to
// give away. Steps then run as that user, as they do for an ordinary worker. Where that user is root of the machine after all, steps would be,
// too, and the kernel would not count their processes; that is refused.
func standing(first int) (strangers bool, err error) {
	users, err := readMap("/proc/self/uid_map")
	if err != nil {
		return false, err
	}
	groups, err := readMap("/proc/self/gid_map")
	if err != nil {
		return false, err
	}
	return whatRootIs(users, groups, first)
}

func whatRootIs(users, groups idMap, first int) (strangers bool, err error) {
	if users.holds(first, hostIDCount) && groups.holds(first, hostIDCount) {
		return true, nil
	}
	if outside, ok := users.outside(0); ok && outside == 0 {
		return false, errors.New("the worker is root in a user namespace, as below \"unshare -r\", which has no other users to run steps as, and outside of it is root, too; " +
			"start it outside of that namespace, or as an ordinary user")
	}
	return false, nil
}

// idMap is what /proc/PID/uid_map says.
type idMap []idRange

type idRange struct{ inside, outside, count int }

func readMap(path string) (idMap, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseMap(string(raw))
}

func parseMap(text string) (idMap, error) {
	var m idMap
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return nil, errors.New("a map of users that has not three columns")
		}
		var numbers [3]int
		for i, f := range fields {
			n, err := strconv.ParseUint(f, 10, 32)
			if err != nil {
				return nil, err
			}
			numbers[i] = int(n)
		}
		m = append(m, idRange{numbers[0], numbers[1], numbers[2]})
	}
	return m, nil
}

func (m idMap) holds(first, count int) bool {
	for _, r := range m {
		if r.inside <= first && first+count <= r.inside+r.count {
			return true
		}
	}
	return false
}

func (m idMap) outside(id int) (int, bool) {
	for _, r := range m {
		if r.inside <= id && id < r.inside+r.count {
			return r.outside + id - r.inside, true
		}
	}
	return 0, false
}
