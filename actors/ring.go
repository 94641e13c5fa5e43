package actors

// ring is a FIFO that grows with use and never shrinks; its bound is kept by
// whoever pushes. It allocates nothing once it has reached its working size.
type ring[T any] struct {
	items []T // len is a power of two
	head  int
	n     int
}

func (r *ring[T]) len() int { return r.n }

func (r *ring[T]) push(v T) {
	if r.n == len(r.items) {
		items := make([]T, max(4, 2*len(r.items)))
		for i := range r.n {
			items[i] = r.at(i)
		}
		r.items, r.head = items, 0
	}
	r.items[(r.head+r.n)&(len(r.items)-1)] = v
	r.n++
}

// at returns the i-th oldest element.
func (r *ring[T]) at(i int) T { return r.items[(r.head+i)&(len(r.items)-1)] }

// ref returns the place of the i-th oldest element.
func (r *ring[T]) ref(i int) *T { return &r.items[(r.head+i)&(len(r.items)-1)] }

// peek returns the oldest element; pop takes it. Both panic on an empty ring:
// the callers have counted before.
func (r *ring[T]) peek() T {
	if r.n == 0 {
		panic("actors: peek into an empty ring")
	}
	return r.items[r.head]
}

func (r *ring[T]) pop() T {
	v := r.peek()
	var zero T
	r.items[r.head] = zero
	r.head = (r.head + 1) & (len(r.items) - 1)
	r.n--
	return v
}

// remove takes out every element that match accepts. It is not for hot paths.
func (r *ring[T]) remove(match func(T) bool) {
	for range r.n {
		if v := r.pop(); !match(v) {
			r.push(v)
		}
	}
}
