package replay

// reservoir keeps an even random subset of all chunks ever offered, within a
// capacity in steps: those with the largest of random keys, which is Vitter's
// algorithm R in another form (Efraimidis and Spirakis 2006 with equal
// weights). Keys are a hash of the seed and the chunk's number, so that a
// restart finds the same members with nothing saved.
type reservoir struct {
	seed     uint64
	capacity int
	steps    int
	floor    uint64   // largest key dropped so far; nothing at or below it enters
	heap     []member // the smallest key first
}

type member struct {
	key  uint64
	slot int32
}

// key is SplitMix64's output for a chunk (Steele et al. 2014).
func (r *reservoir) key(number uint64) uint64 {
	z := r.seed + (number+1)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// offer enters a chunk and reports whether it was taken. The caller then calls
// drop while overfull.
func (r *reservoir) offer(slot int32, number uint64, steps int) bool {
	key := r.key(number)
	if r.capacity == 0 || key <= r.floor {
		return false
	}
	r.steps += steps
	r.heap = append(r.heap, member{key, slot})
	for i := len(r.heap) - 1; i > 0; {
		parent := (i - 1) / 2
		if r.heap[parent].key <= r.heap[i].key {
			break
		}
		r.heap[parent], r.heap[i] = r.heap[i], r.heap[parent]
		i = parent
	}
	return true
}

func (r *reservoir) overfull() bool { return r.steps > r.capacity }

// least is the slot of the member that drop removes.
func (r *reservoir) least() int32 { return r.heap[0].slot }

// drop removes the member with the smallest key, of so many steps.
func (r *reservoir) drop(steps int) {
	r.steps -= steps
	r.floor = r.heap[0].key
	last := len(r.heap) - 1
	r.heap[0] = r.heap[last]
	r.heap = r.heap[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			return
		}
		if child+1 < last && r.heap[child+1].key < r.heap[child].key {
			child++
		}
		if r.heap[i].key <= r.heap[child].key {
			return
		}
		r.heap[i], r.heap[child] = r.heap[child], r.heap[i]
		i = child
	}
}
