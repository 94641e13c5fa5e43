package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/spf13/pflag"
)

// options are what the command line says.
type options struct {
	length  time.Duration
	warmUp  time.Duration
	seed    uint64
	stress  int
	lag     time.Duration
	picture string
	report  string
	keep    string
	brokerd string
	race    bool
}

const (
	lengthDefault = 30 * time.Minute
	lengthMin     = 30 * time.Second
	lagDefault    = 3 * time.Second
	lagStress     = 15 * time.Second
)

// shmNeededMiB is how much of /dev/shm has to be free.
const shmNeededMiB = 350

// Exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
)

const usageText = `Usage: soak [flags]

Twelve nodes and a broker under load, killed and stopped all the time; every message
is accounted for at the end, and nothing may grow. It needs Linux and %d MiB of /dev/shm.

Examples:
  go -C bench run ./soak --for 2m                             as CI does
  go -C bench run ./soak --for 5m --stress 8                  beside eight processes that never rest
  go -C bench run ./soak --seed 4711 --dir /var/tmp/soak      the same draws again; keep everything

Flags:
%s
Exit status: 0 nothing is wrong; %d something is, or it could not run or was interrupted;
%d wrong usage.
`

func parse(args []string, errOut io.Writer) (*options, error) {
	o := &options{}
	flags := pflag.NewFlagSet("soak", pflag.ContinueOnError)
	flags.SetOutput(errOut)
	flags.SortFlags = false
	flags.DurationVar(&o.length, "for", lengthDefault, "how long to harm the nodes and the broker")
	flags.DurationVar(&o.warmUp, "warm-up", 0, "time before flatness is judged (default: a tenth, 20s at least)")
	flags.Uint64Var(&o.seed, "seed", 0, "of everything that is drawn; 0 draws one, which is printed")
	flags.IntVar(&o.stress, "stress", 0, "processes beside it that never rest")
	flags.DurationVar(&o.lag, "lag", 0, "how long the machine may take to carry a message or a line of the log (default 3s, 15s with --stress)")
	flags.StringVar(&o.picture, "plot", "soak.png", "where the picture goes; empty: nowhere")
	flags.StringVar(&o.report, "json", "", "where the report for machines goes; - is standard output")
	flags.StringVar(&o.keep, "dir", "", "keep books and logs in this directory (default: a temporary one, kept after a failure)")
	flags.StringVar(&o.brokerd, "brokerd", "", "the brokerd to test (default: built from the source beside this one)")
	flags.BoolVar(&o.race, "race", false, "build that brokerd with the race detector")
	flags.Usage = func() {
		fmt.Fprintf(errOut, usageText, shmNeededMiB, flags.FlagUsages(), exitFailed, exitUsage)
	}
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case flags.NArg() > 0:
		return nil, fmt.Errorf("%q is one argument too many", flags.Arg(0))
	case o.length < lengthMin:
		return nil, fmt.Errorf("--for %v is too short, the least is %v", o.length, lengthMin)
	case o.stress < 0 || o.warmUp < 0 || o.lag < 0:
		return nil, errors.New("--stress, --warm-up and --lag must not be negative")
	}
	if o.warmUp == 0 {
		o.warmUp = max(20*time.Second, o.length/10)
	}
	if o.lag == 0 {
		o.lag = lagDefault
		if o.stress > 0 {
			o.lag = lagStress
		}
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()>>1 | 1
	}
	return o, nil
}
