//go:build !carried

package image

const carried = ""
