package heap

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"
)

func percent() uint64 {
	s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// childMark is the first argument of a test binary that says how it collects, before and after the first time.
const childMark = "heap-child"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == childMark {
		fmt.Print(percent(), " ")
		runtime.GC()
		for deadline := time.Now().Add(time.Minute); fmt.Sprint(percent()) != os.Args[2] && time.Now().Before(deadline); {
			runtime.Gosched()
		}
		fmt.Print(percent())
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// The first collection comes late, the others as Go has it; who sets GOGC has it from the beginning.
func TestFirstCollection(t *testing.T) {
	for gogc, want := range map[string]string{"": "400 100", "50": "50 50"} {
		child := exec.Command("/proc/self/exe", childMark, want[strings.Index(want, " ")+1:])
		child.Env = append(os.Environ(), "GOGC="+gogc)
		if said, err := child.CombinedOutput(); err != nil || string(said) != want {
			t.Errorf("GOGC=%s: %q, %v, not %q", gogc, said, err, want)
		}
	}
}
