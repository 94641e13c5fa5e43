package dataflow

// Mermaid returns the flow as a Mermaid flowchart.
func Mermaid(f *Flow) string { return "" }

// DOT returns the flow as a Graphviz digraph.
func DOT(f *Flow) string { return "" }
