package fault

// Exit codes of the command line. docs/reference/exit-codes.md is checked against this table.
const (
	ExitOK          = 0
	ExitError       = 1
	ExitUsage       = 2
	ExitRunFailed   = 3
	ExitDenied      = 4
	ExitNotFound    = 5
	ExitConflict    = 6
	ExitUnavailable = 7
	ExitPending     = 8
	ExitInvalid     = 9
	ExitIncomplete  = 10
	ExitUntrusted   = 11
	ExitInterrupted = 130
)

type translation struct {
	status int
	exit   int
}

var translations = map[Code]translation{
	Internal:           {500, ExitError},
	Invalid:            {400, ExitUsage},
	NotFound:           {404, ExitNotFound},
	Conflict:           {409, ExitConflict},
	PlanMismatch:       {409, ExitConflict},
	Stale:              {409, ExitConflict},
	Denied:             {403, ExitDenied},
	Unauthenticated:    {401, ExitDenied},
	TenantRequired:     {403, ExitDenied},
	Locked:             {423, ExitUnavailable},
	Unavailable:        {503, ExitUnavailable},
	Exhausted:          {429, ExitUnavailable},
	OverQuota:          {413, ExitUnavailable},
	SandboxUnavailable: {422, ExitError},
	Sandbox:            {500, ExitError},
	Unverified:         {422, ExitInvalid},
	Incomplete:         {422, ExitIncomplete},
	Untrusted:          {422, ExitUntrusted},
	Pending:            {202, ExitPending},
	RunFailed:          {200, ExitRunFailed},
	Interrupted:        {499, ExitInterrupted},
}

// Codes returns every code there is, in no order.
func Codes() []Code {
	codes := make([]Code, 0, len(translations))
	for c := range translations {
		codes = append(codes, c)
	}
	return codes
}

// Status returns the HTTP status of a code, 500 for one it does not know.
func Status(c Code) int {
	if t, ok := translations[c]; ok {
		return t.status
	}
	return 500
}

// Exit returns the exit code of an error, 0 for nil.
func Exit(err error) int {
	if err == nil {
		return ExitOK
	}
	if t, ok := translations[CodeOf(err)]; ok {
		return t.exit
	}
	return ExitError
}
