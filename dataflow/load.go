package dataflow

// Options changes how a file is read. The zero value is the usual way.
type Options struct {
	// Strict makes errors of the warnings about keys that brokerd ignores.
	Strict bool
}

// Load reads the dataflow in the file at path. What is wrong with its content
// comes back as an *Errors; a file that cannot be read as the error of the
// file system, wrapped.
func Load(path string, opt Options) (*Flow, []Warning, error) {
	return Parse(path, nil, opt)
}

// Parse reads a dataflow from data. name is the file's name for messages; the
// dataflow takes its name from it when the file has no key name.
// The error is always an *Errors.
func Parse(name string, data []byte, opt Options) (*Flow, []Warning, error) {
	return nil, nil, &Errors{List: []Problem{{File: name, Message: "cannot be read"}}}
}
