package replay

import "math/rand/v2"

const none = -1

// slot is what the index knows of one stored chunk. Slots are reused; the
// generation tells their tenants apart.
type slot struct {
	// What sampling reads stands together, in a line or two of the cache.
	segment    *segment
	at         int    // offset of its record in the segment
	size       int    // of its record in bytes
	version    uint64 // of its parameters
	steps      int32
	next, prev int32 // slots of the neighbours in the stream, or none
	generation uint32
	masked     bool

	kept   bool   // is in the reservoir
	starts int32  // of its context rows, those from which a whole sequence is there
	number uint64 // chunks inserted before it
	seq    uint64
	stream *stream // nil: the slot is free
	task   *task
	order  int64 // position in the window, or none once evicted from it
}

// stream is one environment slot of one actor, of which chunks are stored.
type stream struct {
	key    streamKey
	chunks int    // stored
	floor  uint64 // chunks with a lower seq have been evicted from the window
}

// task is one of which chunks are stored.
type task struct {
	name   string
	chunks int // stored
}

type streamKey struct {
	actor string
	env   uint32
}

type chunkKey struct {
	stream *stream
	seq    uint64
}

// index knows which chunks are stored, how they follow one another, and where
// a sequence of the current length can start. It holds no steps and does no
// I/O: some 150 bytes a chunk.
//
// The window is a ring of the newest chunks in order of insertion, bounded in
// steps. Chunks that leave it live on while the reservoir keeps them.
type index struct {
	shape  shape
	length int // of sequences
	limit  int // of the window in steps

	slots   []slot
	free    []int32
	streams map[streamKey]*stream
	chunks  map[chunkKey]int32
	tasks   map[string]*task
	steps   int // stored

	window      []int32 // ring of slots, its size a power of two
	oldest      int64   // position of the oldest chunk in the window
	newest      int64   // position of the next one
	windowSteps int
	recent      *tally // starts by window ring position

	reservoir reservoir
	retained  *tally // starts of the reservoir's members by slot
}

const firstRing = 64

func newIndex(limit, length int, r reservoir) *index {
	return &index{
		length: length, limit: limit, reservoir: r,
		streams: map[streamKey]*stream{}, chunks: map[chunkKey]int32{}, tasks: map[string]*task{},
		window: make([]int32, firstRing), recent: newTally(firstRing), retained: newTally(firstRing),
	}
}

// has reports whether a chunk is stored, or so old that it has been.
func (x *index) has(actor string, env uint32, seq uint64) bool {
	s := x.streams[streamKey{actor, env}]
	if s == nil {
		return false
	}
	_, stored := x.chunks[chunkKey{s, seq}]
	return stored || seq < s.floor
}

// add enters a chunk which the index does not have, as the newest.
func (x *index) add(r record, seg *segment, at int) {
	id := x.take()
	x.place(id, r, seg, at)
	x.push(id)
	if x.reservoir.offer(id, r.number, r.steps) {
		x.slots[id].kept = true
	}
	x.link(id)
	x.trim()
}

// take returns a free slot.
func (x *index) take() int32 {
	if n := len(x.free); n > 0 {
		id := x.free[n-1]
		x.free = x.free[:n-1]
		return id
	}
	x.slots = append(x.slots, slot{})
	if len(x.slots) > x.retained.bins() {
		x.retained = newTally(2 * x.retained.bins())
		for id := range x.slots {
			if x.slots[id].kept {
				x.retained.add(id, x.slots[id].starts)
			}
		}
	}
	return int32(len(x.slots) - 1)
}

// place gives a slot its tenant, linked to nobody yet.
func (x *index) place(id int32, r record, seg *segment, at int) {
	key := streamKey{r.actor, r.env}
	s := x.streams[key]
	if s == nil {
		s = &stream{key: key}
		x.streams[key] = s
	}
	s.chunks++
	k := x.tasks[r.task]
	if k == nil {
		k = &task{name: r.task}
		x.tasks[r.task] = k
	}
	k.chunks++
	x.chunks[chunkKey{s, r.seq}] = id
	x.slots[id] = slot{
		generation: x.slots[id].generation, number: r.number, seq: r.seq, version: r.version, stream: s, task: k,
		segment: seg, at: at, size: r.size, steps: int32(r.steps), masked: r.masked,
		next: none, prev: none, order: none,
	}
	x.steps += r.steps
	seg.enter(r.size)
}

// push makes a chunk the newest of the window.
func (x *index) push(id int32) {
	if x.newest-x.oldest == int64(len(x.window)) {
		ring, recent := make([]int32, 2*len(x.window)), newTally(2*len(x.window))
		for order := x.oldest; order < x.newest; order++ {
			tenant := x.window[x.ring(order)]
			at := int(order) & (len(ring) - 1)
			ring[at] = tenant
			recent.add(at, x.slots[tenant].starts)
		}
		x.window, x.recent = ring, recent
	}
	s := &x.slots[id]
	s.order = x.newest
	s.segment.window++
	x.window[x.ring(x.newest)] = id
	x.newest++
	x.windowSteps += int(s.steps)
}

func (x *index) ring(order int64) int { return int(order) & (len(x.window) - 1) }

// trim evicts what is over the window's and the reservoir's capacities.
func (x *index) trim() {
	for x.windowSteps > x.limit && x.newest-x.oldest > 1 {
		id := x.window[x.ring(x.oldest)]
		s := &x.slots[id]
		x.recent.add(x.ring(s.order), -s.starts)
		x.oldest++
		x.windowSteps -= int(s.steps)
		s.order = none
		s.segment.window--
		s.stream.floor = max(s.stream.floor, s.seq+1)
		if !s.kept {
			x.remove(id)
		}
	}
	for x.reservoir.overfull() {
		id := x.reservoir.least()
		s := &x.slots[id]
		x.retained.add(int(id), -s.starts)
		x.reservoir.drop(int(s.steps))
		s.kept = false
		if s.order == none {
			x.remove(id)
		}
	}
}

// remove frees the slot of a chunk that neither window nor reservoir holds.
func (x *index) remove(id int32) {
	s := &x.slots[id]
	x.steps -= int(s.steps)
	s.segment.leave(s.size)
	delete(x.chunks, chunkKey{s.stream, s.seq})
	if s.stream.chunks--; s.stream.chunks == 0 {
		delete(x.streams, s.stream.key)
	}
	if s.task.chunks--; s.task.chunks == 0 {
		delete(x.tasks, s.task.name)
	}
	prev, next := s.prev, s.next
	*s = slot{generation: s.generation + 1, order: none}
	x.free = append(x.free, id)
	if next != none {
		x.slots[next].prev = none
	}
	if prev != none {
		x.slots[prev].next = none
		x.count(prev)
	}
}

// link joins a chunk to its neighbours in the stream and counts the starts
// that this makes possible.
func (x *index) link(id int32) {
	s := &x.slots[id]
	if next, ok := x.chunks[chunkKey{s.stream, s.seq + 1}]; ok {
		s.next, x.slots[next].prev = next, id
	}
	if prev, ok := x.chunks[chunkKey{s.stream, s.seq - 1}]; ok && s.seq > 0 {
		s.prev, x.slots[prev].next = prev, id
	}
	x.count(id)
}

// count brings up to date the starts of a chunk and of those before it whose
// sequences reach into it.
func (x *index) count(id int32) {
	after := 0 // steps that follow the chunk in its stream, as far as they matter
	for next := x.slots[id].next; next != none && after < x.length; next = x.slots[next].next {
		after += int(x.slots[next].steps)
	}
	between := -int(x.slots[id].steps) // steps from the end of a chunk before it to its beginning
	for id != none && between < x.length {
		s := &x.slots[id]
		x.setStarts(id, s, after)
		after = min(after+int(s.steps), x.length)
		between += int(s.steps)
		id = s.prev
	}
}

func (x *index) setStarts(id int32, s *slot, after int) {
	var starts int32
	if spare := int(s.steps) + after - x.length; spare >= 0 {
		starts = int32(min(spare/x.shape.stride+1, x.shape.rows(int(s.steps))))
	}
	delta := starts - s.starts
	s.starts = starts
	if s.order != none {
		x.recent.add(x.ring(s.order), delta)
	}
	if s.kept {
		x.retained.add(int(id), delta)
	}
}

// setLength changes the length of sequences, which counts all starts anew.
func (x *index) setLength(length int) {
	x.length = length
	for id := range x.slots {
		if x.slots[id].stream != nil {
			x.count(int32(id))
		}
	}
}

// starts is the number of places to start a sequence from, of which those both
// in the window and in the reservoir count twice.
func (x *index) starts() int { return x.recent.total + x.retained.total }

// draw picks a start: a slot and one of its context rows. There must be one.
func (x *index) draw(mix Mix, r *rand.Rand) (id int32, row int) {
	inReservoir, rank := mix.draw(r, x.recent.total, x.retained.total, x.shape.stride)
	if inReservoir {
		bin, row := x.retained.find(rank)
		return int32(bin), row
	}
	// Ranks count from the newest start, the tally from the ring's bin 0; the
	// oldest chunk is somewhere in its middle.
	k := x.recent.before(x.ring(x.oldest)) + x.recent.total - 1 - rank
	if k >= x.recent.total {
		k -= x.recent.total
	}
	bin, row := x.recent.find(k)
	return x.window[bin], row
}
