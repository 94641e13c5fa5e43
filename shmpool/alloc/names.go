package alloc

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/brokerd/brokerd/wire"
)

// Names of one instance:
//
//	<prefix>-<instance>-probe
//	<prefix>-<instance>-<region id, hex>-<random>
//
// The random part keeps others from making the file first, and from guessing the
// names of regions that they have not been told of.
const (
	instanceHexDigits = 8
	randomHexDigits   = 16
	probeSuffix       = "probe"
)

// newInstance returns a random instance id.
func newInstance() string { return randomHex(instanceHexDigits) }

func randomHex(digits int) string {
	b := make([]byte, digits/2)
	rand.Read(b) // never fails: the runtime ends the process instead
	return hex.EncodeToString(b)
}

func probeName(prefix, instance string) string {
	return prefix + "-" + instance + "-" + probeSuffix
}

func regionName(prefix, instance string, id wire.RegionID) string {
	return fmt.Sprintf("%s-%s-%x-%s", prefix, instance, uint64(id), randomHex(randomHexDigits))
}

// parseName takes a directory entry apart. ok is false for names that no
// Allocator with this prefix makes.
func parseName(prefix, name string) (instance string, isProbe, ok bool) {
	rest, found := strings.CutPrefix(name, prefix+"-")
	if !found {
		return "", false, false
	}
	instance, rest, found = strings.Cut(rest, "-")
	if !found || len(instance) != instanceHexDigits || !isHex(instance) {
		return "", false, false
	}
	if rest == probeSuffix {
		return instance, true, true
	}
	id, random, found := strings.Cut(rest, "-")
	if !found || !isHex(id) || len(random) != randomHexDigits || !isHex(random) {
		return "", false, false
	}
	if _, err := strconv.ParseUint(id, 16, 64); err != nil {
		return "", false, false
	}
	return instance, false, true
}

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == ""
}
