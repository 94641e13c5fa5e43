package dataflow

import "strings"

// splitArgs splits a command line into words as a shell does, without expanding
// anything: blanks separate, '…' is literal, in "…" a backslash escapes " and \,
// elsewhere it escapes any character. fault says why it cannot be split.
func splitArgs(line string) (words []string, fault string) {
	var word strings.Builder
	inWord := false
	quoted := rune(0)
	escaped := false
	for _, c := range line {
		switch {
		case escaped:
			if quoted == '"' && c != '"' && c != '\\' {
				word.WriteByte('\\')
			}
			word.WriteRune(c)
			escaped = false
		case c == '\\' && quoted != '\'':
			escaped, inWord = true, true
		case quoted != 0:
			if c == quoted {
				quoted = 0
			} else {
				word.WriteRune(c)
			}
		case c == '"' || c == '\'':
			quoted, inWord = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(c)
			inWord = true
		}
	}
	switch {
	case quoted != 0:
		return nil, "a " + string(quoted) + " is not closed"
	case escaped:
		return nil, `a \ at the end`
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, ""
}
