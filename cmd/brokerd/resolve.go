package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/brokerd/brokerd/cmd/internal/cli"
)

// effective is the configuration that is in force, and where each part of it
// came from.
type effective struct {
	settings
	file    string            // the configuration file; empty: none
	origins map[string]string // by key
}

const originDefault = "default"

// layer is what one source says: texts by key, with a word for the place.
type layer map[string]layerEntry

type layerEntry struct {
	texts  []string
	origin string
	// wrong turns a reason into an error that shows the place.
	wrong func(reason string) error
}

// flagLayer collects the flags that were given on the command line.
type flagLayer struct {
	config  string
	entries layer
}

// addSettingsFlags gives a command the flag of every option.
func addSettingsFlags(flags *pflag.FlagSet) *flagLayer {
	collected := &flagLayer{entries: layer{}}
	flags.SortFlags = false
	flags.StringVarP(&collected.config, "config", "c", "", "configuration `FILE` (YAML)")
	defaults := defaultSettings()
	// Flags are checked over settings of their own, so that a wrong one is a
	// usage error before anything else is looked at.
	scratch := defaultSettings()
	shown := defaults.options()
	for i, o := range scratch.options() {
		flag := &settingFlag{option: o, shown: shown[i].value, into: collected.entries}
		f := flags.VarPF(flag, o.flag(), "", o.usage)
		if o.value.kind() == "bool" {
			f.NoOptDefVal = "true"
		}
	}
	return collected
}

// settingFlag is one option as a flag.
type settingFlag struct {
	option option
	shown  value // the default, for --help
	into   layer
}

func (f *settingFlag) String() string { return strings.Join(f.shown.texts(), ",") }
func (f *settingFlag) Type() string   { return f.option.value.kind() }

func (f *settingFlag) Set(text string) error {
	entry := f.into[f.option.key]
	if f.option.value.list() {
		entry.texts = append(entry.texts, text)
	} else {
		entry.texts = []string{text}
	}
	if err := f.option.value.set(entry.texts); err != nil {
		return err
	}
	entry.origin = "flag --" + f.option.flag()
	entry.wrong = func(reason string) error { return fmt.Errorf("--%s: %s", f.option.flag(), reason) }
	f.into[f.option.key] = entry
	return nil
}

// resolve puts the layers on top of each other: flag over environment over file
// over default. environ is in the form of os.Environ. The error, if any, lists
// everything that is wrong, not only the first thing.
func resolve(flags *flagLayer, environ []string) (*effective, error) {
	result := &effective{settings: defaultSettings(), origins: map[string]string{}}
	options := result.options()
	for _, o := range options {
		result.origins[o.key] = originDefault
	}
	environment, warnings := environmentLayer(options, environ)
	result.warnings = warnings

	var wrong []error
	path := flags.config
	if path == "" {
		path = lookup(environ, configEnv)
	}
	result.file = path
	file := layer{}
	if path != "" {
		var err error
		if file, err = readConfigFile(path, options); err != nil {
			wrong = append(wrong, err)
		}
	}
	for _, source := range []layer{file, environment, flags.entries} {
		for _, o := range options {
			entry, ok := source[o.key]
			if !ok {
				continue
			}
			if err := o.value.set(entry.texts); err != nil {
				wrong = append(wrong, entry.wrong(err.Error()))
				continue
			}
			result.origins[o.key] = entry.origin
		}
	}
	if len(wrong) > 0 {
		return nil, cli.Config(errors.Join(wrong...))
	}
	return result, nil
}

// environmentLayer reads the BROKERD_* variables. Ones that mean nothing are
// warned of: a mistyped name would otherwise do nothing in silence. An empty
// variable counts as unset, as it is the usual way to take one back.
func environmentLayer(options []option, environ []string) (layer, []string) {
	found := layer{}
	known := []string{configEnv}
	byName := map[string]option{}
	for _, o := range options {
		known = append(known, o.env())
		byName[o.env()] = o
	}
	var warnings []string
	for _, variable := range environ {
		name, text, _ := strings.Cut(variable, "=")
		if !strings.HasPrefix(name, envPrefix) || name == configEnv || slices.Contains(foreignEnv, name) {
			continue
		}
		o, ok := byName[name]
		if !ok {
			warnings = append(warnings, fmt.Sprintf("environment variable %s means nothing to brokerd%s", name, didYouMean(name, known)))
			continue
		}
		if text == "" {
			continue
		}
		texts := []string{text}
		if o.value.list() {
			texts = filepath.SplitList(text)
		}
		found[o.key] = layerEntry{
			texts:  texts,
			origin: "environment " + name,
			wrong:  func(reason string) error { return fmt.Errorf("%s: %s", name, reason) },
		}
	}
	return found, warnings
}

func lookup(environ []string, name string) string {
	for _, variable := range environ {
		if text, ok := strings.CutPrefix(variable, name+"="); ok {
			return text
		}
	}
	return ""
}
