//go:build carried

package image

import _ "embed" // for the directive below

//go:embed shim.amd64
var carried string
