package main

import (
	"errors"
	"fmt"

	"github.com/brokerd/brokerd/dataflow"
)

// loadFlows reads dataflow files. All of them are read even if one is wrong;
// the error joins what is wrong with each, and no flow is returned then.
func loadFlows(files []string, strict bool) ([]*dataflow.Flow, []dataflow.Warning, error) {
	var (
		flows    []*dataflow.Flow
		warnings []dataflow.Warning
		wrong    []error
		fileOf   = map[string]string{} // by name of the dataflow
	)
	for _, file := range files {
		flow, odd, err := dataflow.Load(file, dataflow.Options{Strict: strict})
		warnings = append(warnings, odd...)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		if other, twice := fileOf[flow.Name]; twice {
			wrong = append(wrong, sameName(file, flow.Name, other))
			continue
		}
		fileOf[flow.Name] = file
		flows = append(flows, flow)
	}
	if len(wrong) > 0 {
		return nil, warnings, errors.Join(wrong...)
	}
	return flows, warnings, nil
}

func sameName(file, name, other string) error {
	return &dataflow.Errors{List: []dataflow.Problem{{
		File:       file,
		Message:    fmt.Sprintf("dataflow %q is already in %s", name, other),
		Suggestion: "give one of the files a name of its own with `name: ...`",
	}}}
}
