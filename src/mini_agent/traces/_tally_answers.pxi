# Part of _tally.pyx: what stats_key.py answered, by what it looked at.


# ---------------------------------------------------------------- the inputs of an answer

# The tags that the two questions look at, as bits of their ids.
cdef struct Asked:
    uint64_t meta[2]
    uint64_t metrics[2]

# A slice, and above its size in the head: which tag it is, and what of the span else matters.
cdef struct Piece:
    const char* at
    uint64_t head

cdef enum:
    PIECES_MAX = 128
    HEAD_ID = 32
    HEAD_IS_NUMBER = 40
    HEAD_IS_ROOT = 41
    HEAD_IS_VERDICT = 42

cdef struct Pieces:
    uint64_t hash
    uint32_t count
    # Of all slices together.
    uint64_t size
    Piece list[PIECES_MAX]

cdef Asked VERDICT
cdef Asked KEY


cdef int fill(uint64_t* bits, names) except -1:
    cdef int id
    bits[0] = bits[1] = 0
    for name in names:
        id = known(name.encode())
        assert 0 < id < 128, name
        bits[id >> 6] |= <uint64_t>1 << (id & 63)
    return 0


fill(VERDICT.meta, keys.COUNTED_BY_META)
fill(VERDICT.metrics, keys.COUNTED_BY_METRICS)
fill(KEY.meta, keys.KEY_META)
fill(KEY.metrics, keys.KEY_METRICS)
# A tag is a piece once, and a span has five more: these are all there can be.
assert len(keys.KEY_META) + len(keys.KEY_METRICS) + 5 <= PIECES_MAX

cdef int BASE_SERVICE = known(_BASE_SERVICE.encode())
assert BASE_SERVICE


cdef inline void put(Pieces* pieces, const char* at, uint32_t size, uint64_t marks) noexcept:
    """Add a piece; the caller knows that there is room."""
    cdef uint64_t hash = pieces.hash
    cdef uint64_t head = marks | size
    cdef uint64_t word = 0
    cdef uint32_t half, other_half, at_word = 0
    pieces.list[pieces.count].at = at
    pieces.list[pieces.count].head = head
    pieces.count += 1
    pieces.size += size
    hash = mix(hash, head)
    if size >= 8:
        while at_word + 8 < size:
            memcpy(&word, at + at_word, 8)
            hash = mix(hash, word)
            at_word += 8
        # The last word may begin in the one before.
        memcpy(&word, at + size - 8, 8)
    elif size >= 4:
        memcpy(&half, at, 4)
        memcpy(&other_half, at + size - 4, 4)
        word = half | <uint64_t>other_half << 32
    elif size:
        word = <uint8_t>at[0] | <uint64_t><uint8_t>at[size >> 1] << 8
        word |= <uint64_t><uint8_t>at[size - 1] << 16
    pieces.hash = mix(hash, word)


cdef inline uint64_t mix(uint64_t hash, uint64_t word) noexcept:
    hash = (hash ^ word) * <uint64_t>0x9E3779B97F4A7C15
    return hash ^ (hash >> 29)


cdef inline void put_tags(
    Pieces* pieces, Chunk chunk, Tags* tags, const uint64_t* asked, uint64_t marks
) noexcept:
    """Add the tags that are asked for; each at most once."""
    cdef uint64_t left[2]
    cdef uint64_t bit
    cdef Tag* tag = chunk.tag_list + tags.first
    cdef Tag* end = tag + tags.count
    left[0] = tags.known[0] & asked[0]
    left[1] = tags.known[1] & asked[1]
    while left[0] | left[1] and tag < end:
        bit = <uint64_t>1 << (tag.id & 63)
        if left[tag.id >> 6] & bit:
            left[tag.id >> 6] ^= bit
            if marks:
                put(pieces, <const char*>&tag.value.number, 8, marks | <uint64_t>tag.id << HEAD_ID)
            else:
                put(pieces, tag.value.text, tag.text_size, <uint64_t>tag.id << HEAD_ID)
        tag += 1


cdef inline void ask_verdict(Pieces* pieces, Chunk chunk, Row* row) noexcept:
    """What tells whether a span counts, and whether it is top level."""
    pieces.hash = pieces.size = 0
    pieces.count = 0
    put(pieces, NULL, 0, <uint64_t>1 << HEAD_IS_VERDICT)
    put_tags(pieces, chunk, &row.meta, VERDICT.meta, 0)
    put_tags(pieces, chunk, &row.metrics, VERDICT.metrics, <uint64_t>1 << HEAD_IS_NUMBER)


cdef inline void ask_key(Pieces* pieces, Chunk chunk, Row* row) noexcept:
    """What tells the key of a span that counts."""
    cdef uint64_t is_root = row.parent_id == 0
    pieces.hash = pieces.size = 0
    pieces.count = 0
    put(pieces, row.resource.at, row.resource.size, is_root << HEAD_IS_ROOT)
    put(pieces, row.service.at, row.service.size, 0)
    put(pieces, row.name.at, row.name.size, 0)
    put(pieces, row.type.at, row.type.size, 0)
    put_tags(pieces, chunk, &row.meta, KEY.meta, 0)
    put_tags(pieces, chunk, &row.metrics, KEY.metrics, <uint64_t>1 << HEAD_IS_NUMBER)


# ---------------------------------------------------------------- what stats_key.py answered

# As many keys as a full bucket has groups, and some more. With inputs and slots they take about a
# kilobyte each.
cdef uint32_t ENTRIES_MAX = 8192
cdef uint32_t SLOTS_MAX = 2 * ENTRIES_MAX
cdef uint32_t INPUTS_BYTES_MAX = 4 << 20
# Answers that come again are worth more than the latest, until they come no more.
cdef uint32_t WITHOUT_ROOM_MAX = 4 * ENTRIES_MAX
# A resource may have 5000, and the other texts of a key some hundreds.
cdef uint32_t INPUT_BYTES_MAX = 8192

cdef enum:
    SLOT_ROOM_MIN = 256
    INPUTS_ROOM_MIN = 1 << 14
    # Whoever sends texts that share a hash is not given more time than this.
    PROBES_MAX = 32

cdef Py_ssize_t ORIGINS_MAX = _ORIGINS_MAX

# The inputs are `count` heads and then the slices, `first` bytes into the buffer.
cdef struct Slot:
    uint64_t hash
    # NULL in a free slot; else COUNTED, NOT_COUNTED, or one that Answers.entries holds.
    PyObject* entry
    uint32_t first
    uint32_t count
    bint top_level


# Texts and counts lead nowhere.
@cython.final
@cython.no_gc
cdef class Entry:
    """A key, and the group it had last."""

    cdef tuple key
    cdef Group group
    cdef uint64_t origin
    cdef int64_t start_ns
    cdef bint overflows
    # The Source that noted a span of this key last, and the number of the run there.
    cdef uint64_t source
    cdef uint32_t run


# Verdicts are no keys.
cdef Entry COUNTED = Entry()
cdef Entry NOT_COUNTED = Entry()


@cython.final
cdef class Answers:
    """Answers by inputs, entries by key. There is one; it belongs to the event loop."""

    cdef Slot* slots
    cdef uint32_t slot_room
    cdef uint32_t slots_used
    cdef char* inputs
    cdef uint32_t inputs_room
    cdef uint32_t inputs_used
    cdef dict entries
    # Answers that found no room.
    cdef uint32_t without_room
    # Of the concentrator whose groups the entries have, and the numbers of its origins.
    cdef object epoch
    cdef dict origins
    cdef uint64_t last_origin

    def __cinit__(self):
        self.entries = {}
        self.origins = {}
        self.slots = <Slot*>PyMem_Calloc(SLOT_ROOM_MIN, sizeof(Slot))
        self.inputs = <char*>PyMem_Malloc(INPUTS_ROOM_MIN)
        if self.slots == NULL or self.inputs == NULL:
            raise MemoryError
        self.slot_room = SLOT_ROOM_MIN
        self.inputs_room = INPUTS_ROOM_MIN

    def __dealloc__(self):
        PyMem_Free(self.slots)
        PyMem_Free(self.inputs)

    cdef Slot* find(self, Pieces* pieces) noexcept:
        """The slot with this answer, or a free one for it, or NULL."""
        cdef uint32_t at = <uint32_t>(pieces.hash >> 32) & (self.slot_room - 1)
        cdef Slot* slot
        cdef int probe
        for probe in range(PROBES_MAX):
            slot = &self.slots[at]
            if slot.entry == NULL or (
                slot.hash == pieces.hash and is_same(self.inputs + slot.first, slot.count, pieces)
            ):
                return slot
            at = (at + 1) & (self.slot_room - 1)
        return NULL

    cdef int remember(self, Pieces* pieces, Entry entry, bint top_level) except -1:
        """Note an answer if there is room; the entry is a verdict or in `entries`."""
        cdef Slot* slot
        cdef uint32_t size, index
        cdef char* at
        cdef uint64_t* heads
        if pieces.size > INPUT_BYTES_MAX:
            return 0
        # Rounded up, so that heads stand where a number may.
        size = <uint32_t>(8 * pieces.count + pieces.size + 7) & ~<uint32_t>7
        if self.slots_used >= SLOTS_MAX or size > INPUTS_BYTES_MAX - self.inputs_used:
            self.without_room += 1
            return 0
        self.make_room(size)
        slot = self.find(pieces)
        if slot == NULL or slot.entry != NULL:
            return 0
        heads = <uint64_t*>(self.inputs + self.inputs_used)
        at = <char*>(heads + pieces.count)
        for index in range(pieces.count):
            heads[index] = pieces.list[index].head
            if heads[index] & UINT32_MAX:
                memcpy(at, pieces.list[index].at, heads[index] & UINT32_MAX)
                at += heads[index] & UINT32_MAX
        slot.hash = pieces.hash
        slot.entry = <PyObject*>entry
        slot.first = self.inputs_used
        slot.count = pieces.count
        slot.top_level = top_level
        self.slots_used += 1
        self.inputs_used += size
        return 0

    cdef int make_room(self, uint32_t size) except -1:
        """For one more slot with inputs of this size. Half of the slots stay free."""
        cdef Slot* slots
        cdef Slot* before = self.slots
        cdef uint32_t at, index, room = self.inputs_room
        cdef char* inputs
        if size > room - self.inputs_used:
            while size > room - self.inputs_used:
                room *= 2
            inputs = <char*>PyMem_Realloc(self.inputs, room)
            if inputs == NULL:
                raise MemoryError
            self.inputs = inputs
            self.inputs_room = room
        if 2 * self.slots_used < self.slot_room:
            return 0
        room = 2 * self.slot_room
        slots = <Slot*>PyMem_Calloc(room, sizeof(Slot))
        if slots == NULL:
            raise MemoryError
        for index in range(self.slot_room):
            if before[index].entry != NULL:
                at = <uint32_t>(before[index].hash >> 32) & (room - 1)
                while slots[at].entry != NULL:
                    at = (at + 1) & (room - 1)
                slots[at] = before[index]
        self.slots = slots
        self.slot_room = room
        PyMem_Free(before)
        return 0

    cdef Entry entry_of(self, tuple key, dict strays, bint may_keep):
        """The entry of a key: remembered, or of this request alone."""
        cdef Entry entry = self.entries.get(key)
        if entry is not None:
            return entry
        entry = strays.get(key)
        if entry is None:
            entry = Entry.__new__(Entry)
            entry.key = key
        if may_keep and len(self.entries) < ENTRIES_MAX:
            self.entries[key] = entry
        else:
            strays[key] = entry
            self.without_room += may_keep
        return entry

    cdef int make_room_in_time(self) except -1:
        """Forget everything, between two requests, when too much found no room."""
        if self.without_room >= WITHOUT_ROOM_MAX:
            self.inputs_used = 0
            self.slots_used = 0
            memset(self.slots, 0, self.slot_room * sizeof(Slot))
            self.entries.clear()
            self.without_room = 0
        return 0

    cdef uint64_t number_of(self, origin, epoch) except 0:
        """Under which number entries have the groups of an origin; other groups are let go."""
        cdef Entry entry
        if epoch is not self.epoch or len(self.origins) > ORIGINS_MAX:
            for entry in self.entries.values():
                entry.group = None
            self.origins.clear()
            self.epoch = epoch
        number = self.origins.get(origin)
        if number is None:
            # Never one that was given before, for entries that were out of reach above.
            self.last_origin += 1
            self.origins[origin] = number = self.last_origin
        return number


cdef bint is_same(const char* inputs, uint32_t count, Pieces* pieces) noexcept:
    cdef const uint64_t* heads = <const uint64_t*>inputs
    cdef const char* at = inputs + 8 * count
    cdef uint32_t index, size
    if count != pieces.count:
        return False
    for index in range(count):
        if heads[index] != pieces.list[index].head:
            return False
        size = <uint32_t>heads[index]
        if size:
            if memcmp(at, pieces.list[index].at, size):
                return False
            at += size
    return True


cdef Answers answers = Answers()
