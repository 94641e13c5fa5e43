// Package testdata carries the sample photographs, so that the demo is one
// binary that runs from any directory.
//
// The package lies here because go:embed takes no file from outside its own
// directory, and the photographs are test data first. The go command leaves
// directories of this name out of patterns such as ./... but builds them when
// they are imported; `go vet ./testdata` names it explicitly, and a test of the
// demo does so.
//
// Licences are stated in images/LICENSES.md.
package testdata

import "embed"

// Photographs holds images/*.png and images/*.jpg.
//
//go:embed images/*.png images/*.jpg
var Photographs embed.FS
