package dataflow

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// YAML renders the flow in the flat form, with every value that is not a
// default. Parse reads it back to an equal flow. The order is that of the flow;
// environment variables are sorted.
func YAML(f *Flow) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "name: %s\nnodes:", scalarText(f.Name))
	if len(f.Nodes) == 0 {
		b.WriteString(" []")
	}
	b.WriteString("\n")
	for i := range f.Nodes {
		yamlNode(&b, &f.Nodes[i])
	}
	return []byte(b.String())
}

func yamlNode(b *strings.Builder, n *Node) {
	fmt.Fprintf(b, "  - id: %s\n", scalarText(n.ID))
	if n.Path != "" {
		fmt.Fprintf(b, "    path: %s\n", scalarText(n.Path))
	}
	yamlList(b, "args", n.Args)
	if len(n.Env) > 0 {
		b.WriteString("    env:\n")
		names := make([]string, 0, len(n.Env))
		for name := range n.Env {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			fmt.Fprintf(b, "      %s: %s\n", scalarText(name), scalarText(n.Env[name]))
		}
	}
	yamlList(b, "outputs", n.Outputs)
	if len(n.Inputs) > 0 {
		b.WriteString("    inputs:\n")
	}
	for _, in := range n.Inputs {
		fmt.Fprintf(b, "      %s: %s\n", scalarText(in.ID), yamlInput(in))
	}
}

func yamlList(b *strings.Builder, key string, values []string) {
	if len(values) == 0 {
		return
	}
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = scalarText(v)
	}
	fmt.Fprintf(b, "    %s: [%s]\n", key, strings.Join(texts, ", "))
}

// yamlInput writes the short form if all settings are defaults.
func yamlInput(in Input) string {
	parts := inputSettings(in)
	if len(parts) == 0 {
		return scalarText(in.Source.Text)
	}
	return fmt.Sprintf("{source: %s, %s}", scalarText(in.Source.Text), strings.Join(parts, ", "))
}

// inputSettings lists what differs from the defaults, as key: value.
func inputSettings(in Input) []string {
	var parts []string
	if in.QueueSize != QueueSizeDefault {
		parts = append(parts, "queue_size: "+strconv.Itoa(in.QueueSize))
	}
	if in.Policy != PolicyDefault {
		parts = append(parts, "policy: "+in.Policy.String())
	}
	if in.HoldTimeout != HoldTimeoutDefault {
		parts = append(parts, "hold_timeout: "+holdText(in))
	}
	return parts
}

func holdText(in Input) string {
	if in.HoldTimeout == 0 {
		return "never"
	}
	return in.HoldTimeout.String()
}

// scalarText writes a text so that YAML reads it back as this text: plain if it
// is made of harmless characters and starts with a letter that cannot make it a
// number, a truth value or nothing; quoted otherwise.
func scalarText(s string) string {
	if s == "" || !isLetter(s[0]) && s[0] != '/' && s[0] != '_' && !strings.HasPrefix(s, "./") && !strings.HasPrefix(s, "../") {
		return strconv.Quote(s)
	}
	for _, c := range s {
		if !isIDRune(c) && c != '/' {
			return strconv.Quote(s)
		}
	}
	switch strings.ToLower(s) {
	case "true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf":
		return strconv.Quote(s)
	}
	return s
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
