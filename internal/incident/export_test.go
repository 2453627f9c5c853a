package incident

// Round is one look at all tenants.
var Round = (*Service).round
