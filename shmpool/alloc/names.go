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
// names of regions that they have not been told of. Another broker that adopts a
// region changes the instance in its name, and nothing else.
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

// renamedTo returns the name of a region after instance has adopted it.
func renamedTo(prefix, instance, name string) string {
	_, rest, _ := cutInstance(prefix, name)
	return prefix + "-" + instance + "-" + rest
}

// parseName takes a directory entry apart. ok is false for names that no
// Allocator with this prefix makes.
func parseName(prefix, name string) (instance string, isProbe, ok bool) {
	if instance, _, ok = parseRegionName(prefix, name); ok {
		return instance, false, true
	}
	instance, rest, ok := cutInstance(prefix, name)
	if !ok || rest != probeSuffix {
		return "", false, false
	}
	return instance, true, true
}

// parseRegionName takes the name of a region apart.
func parseRegionName(prefix, name string) (instance string, id wire.RegionID, ok bool) {
	instance, rest, ok := cutInstance(prefix, name)
	if !ok {
		return "", 0, false
	}
	number, random, found := strings.Cut(rest, "-")
	if !found || !isHex(number) || len(random) != randomHexDigits || !isHex(random) {
		return "", 0, false
	}
	n, err := strconv.ParseUint(number, 16, 64)
	if err != nil {
		return "", 0, false
	}
	return instance, wire.RegionID(n), true
}

// cutInstance cuts prefix and instance id off a name.
func cutInstance(prefix, name string) (instance, rest string, ok bool) {
	rest, found := strings.CutPrefix(name, prefix+"-")
	if !found {
		return "", "", false
	}
	instance, rest, found = strings.Cut(rest, "-")
	if !found || len(instance) != instanceHexDigits || !isHex(instance) {
		return "", "", false
	}
	return instance, rest, true
}

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == ""
}
