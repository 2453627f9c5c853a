package heap

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"
)

func percent() uint64 {
	s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// childMark is the first argument of a test binary that says how it collects: before the first time, after it, and with much alive. The
// others say what is to be waited for.
const childMark = "heap-child"

func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == childMark {
		fmt.Print(percent())
		after(os.Args[2])
		much := make([]byte, 200<<20)
		after(os.Args[3])
		runtime.KeepAlive(much)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// after collects until the pace is as it should be: finalizers run some time after a collection.
func after(want string) {
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		runtime.GC()
		if got := fmt.Sprint(percent()); got == want || time.Now().After(deadline) {
			fmt.Print(" ", got)
			return
		}
	}
}

// The first collection comes late, and the others leave room as long as little is alive; who sets GOGC or GOMEMLIMIT has it as it is.
func TestPace(t *testing.T) {
	for set, want := range map[string]string{"X=": "400 1000 100", "GOGC=50": "50 50 50", "GOMEMLIMIT=1GiB": "100 100 100"} {
		child := exec.Command("/proc/self/exe", append([]string{childMark}, strings.Fields(want)[1:]...)...)
		child.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool {
			return strings.HasPrefix(e, "GOGC=") || strings.HasPrefix(e, "GOMEMLIMIT=")
		}), set)
		if said, err := child.CombinedOutput(); err != nil || string(said) != want {
			t.Errorf("%s: %q, %v, not %q", set, said, err, want)
		}
	}
}

func TestPercentFor(t *testing.T) {
	for live, want := range map[uint64]int{0: 1000, 1 << 20: 1000, 16 << 20: 400, 32 << 20: 200, 64 << 20: 100, 1 << 40: 100} {
		if got := percentFor(live); got != want {
			t.Errorf("%d bytes alive: %d, want %d", live, got, want)
		}
	}
}
