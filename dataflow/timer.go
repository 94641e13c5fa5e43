package dataflow

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const timerForm = "write timer/millis/100, timer/secs/5 or timer/hz/30"

// timerDigitsMax is plenty for every period from TimerMin to TimerMax.
const timerDigitsMax = 9

// timerPart returns what follows timer/ or dora/timer/.
func timerPart(source string) (rest string, ok bool) {
	source = strings.TrimPrefix(source, "dora/")
	if source == "timer" {
		return "", true
	}
	return strings.CutPrefix(source, "timer/")
}

// timerPeriod reads unit/number, e.g. millis/100.
func timerPeriod(rest string) (period time.Duration, fault, suggestion string) {
	unit, number, ok := strings.Cut(rest, "/")
	if !ok || number == "" {
		return 0, "it needs a unit and a number", timerForm
	}
	var scale float64 // nanoseconds
	switch unit {
	case "millis":
		scale = float64(time.Millisecond)
	case "secs":
		scale = float64(time.Second)
	case "hz":
	default:
		suggestion = timerForm
		if near, ok := nearest(unit, []string{"millis", "secs", "hz"}); ok {
			suggestion = "did you mean " + near + "?"
		}
		return 0, fmt.Sprintf("no unit is called %s", quote(unit)), suggestion
	}
	if fault := timerNumberFault(number); fault != "" {
		return 0, quote(number) + " " + fault, timerForm
	}
	var nanos float64
	if unit == "hz" {
		// Fractions make sense for frequencies: 0.5 is a tick every 2 s.
		hz, err := strconv.ParseFloat(number, 64)
		if err != nil || strings.ContainsAny(number, "xXpP_") || math.IsNaN(hz) || math.IsInf(hz, 0) {
			return 0, fmt.Sprintf("%s is not a number", quote(number)), timerForm
		}
		if hz <= 0 {
			return 0, "the number must be above 0", timerForm
		}
		nanos = math.Round(float64(time.Second) / hz)
	} else {
		n, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return 0, fmt.Sprintf("%s is not a whole number in range", quote(number)), timerForm
		}
		if n == 0 {
			return 0, "the number must be above 0", timerForm
		}
		nanos = float64(n) * scale
	}
	if nanos < float64(TimerMin) || nanos > float64(TimerMax) {
		return 0, fmt.Sprintf("its period is not from %s to %s", periodText(TimerMin), periodText(TimerMax)), timerForm
	}
	return time.Duration(nanos), "", ""
}

// timerNumberFault says what is wrong with the digits of a number, or nothing.
// Parsing alone would let any number of zeros pass, and the text of a source
// travels as it was written.
func timerNumberFault(number string) string {
	digits := 0
	for _, c := range number {
		if '0' <= c && c <= '9' {
			digits++
		}
	}
	unsigned := strings.TrimLeft(number, "+-")
	switch {
	case len(unsigned) > 1 && unsigned[0] == '0' && '0' <= unsigned[1] && unsigned[1] <= '9':
		return "has a zero in front"
	case digits > timerDigitsMax:
		return fmt.Sprintf("has more than %d digits", timerDigitsMax)
	}
	return ""
}

// periodText writes a period for people: 100 ms, 5 s, 30 Hz, 24 h.
func periodText(d time.Duration) string {
	switch {
	case d >= time.Hour && d%time.Hour == 0:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d >= time.Second && d%time.Second == 0:
		return fmt.Sprintf("%d s", d/time.Second)
	case d >= time.Millisecond && d%time.Millisecond == 0:
		return fmt.Sprintf("%d ms", d/time.Millisecond)
	}
	hz := math.Round(float64(time.Second) / float64(d))
	if hz >= 1 && time.Duration(math.Round(float64(time.Second)/hz)) == d {
		return fmt.Sprintf("%.0f Hz", hz)
	}
	return d.String()
}
