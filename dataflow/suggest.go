package dataflow

import "strings"

// nearest returns the candidate that is most like what was written, if one is
// near enough to be a slip of the fingers: one edit up to 5 characters, two up
// to 8, three above. Case does not count. Of equally near ones the first wins.
func nearest(written string, candidates []string) (string, bool) {
	limit := 3
	switch n := len(written); {
	case n <= 5:
		limit = 1
	case n <= 8:
		limit = 2
	}
	best, found := "", false
	for _, c := range candidates {
		if d := distance(strings.ToLower(written), strings.ToLower(c), limit); d <= limit {
			best, found, limit = c, true, d-1
		}
	}
	return best, found
}

// distance counts the insertions, removals, replacements and swaps of neighbours
// that make b of a (optimal string alignment), or limit+1 if there are more. Only
// the cells near the diagonal are looked at: the cost is len(a)·limit.
func distance(a, b string, limit int) int {
	if limit < 0 || len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	far := limit + 1
	rows := [3][]int{}
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
	}
	for j := range rows[0] {
		rows[0][j] = min(j, far)
	}
	for i := 1; i <= len(a); i++ {
		row, above, above2 := rows[i%3], rows[(i+2)%3], rows[(i+1)%3]
		for j := range row {
			row[j] = far
		}
		if i <= limit {
			row[0] = i
		}
		near := row[0]
		for j := max(1, i-limit); j <= min(len(b), i+limit); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(above[j-1]+cost, above[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, above2[j-2]+1)
			}
			row[j] = min(d, far)
			near = min(near, row[j])
		}
		if near >= far {
			return far
		}
	}
	return rows[len(a)%3][len(b)]
}

// joined lists names for a suggestion, at most eight.
func joined(names []string) string {
	const show = 8
	if len(names) > show {
		return strings.Join(names[:show], ", ") + ", …"
	}
	return strings.Join(names, ", ")
}
