# Part of _tally.pyx: groups and their sketches.

cdef extern from *:
    """
    #include <math.h>

    /* Each step is rounded before the next, as the interpreter does it: no fused multiply-add. */
    static double mini_agent_bin(double value, double multiplier, double offset) {
        volatile double product = log(value) * multiplier;
        return floor(product + offset);
    }
    """
    double bin_of "mini_agent_bin" (double value, double multiplier, double offset) noexcept nogil


# ---------------------------------------------------------------- sketches

cdef uint32_t BINS_MAX = plain.BINS_MAX
cdef double MULTIPLIER = plain.MULTIPLIER
cdef double OFFSET = plain.OFFSET
cdef double VALUE_MIN = plain.VALUE_MIN

cdef enum:
    # A cell has the count of a bin above the bin's place; 0 is an empty cell. Places are indices
    # moved up, so that none is negative: doubles have indices from -44,400 to 47,200.
    PLACE_BITS = 20
    PLACE_MASK = (1 << PLACE_BITS) - 1
    INDEX_BIAS = 1 << (PLACE_BITS - 1)
    # Of 32 bytes: most groups have a handful of bins.
    ROOM_MIN = 4

# 17 * 10^12 spans in ten seconds; from there on a count stays what it is.
cdef uint64_t COUNT_MAX = (<uint64_t>1 << (64 - PLACE_BITS)) - 1


# It holds no objects.
@cython.final
cdef class Sketch:
    """Counts of values by bin; the face is that of sketch.Sketch.

    The cells are a hash table in which a bin stands where its place says, modulo their number.
    Bins of one group lie close together, so that nearly all of them are found at once.
    """

    cdef public uint64_t zeros
    cdef uint64_t* cells
    cdef uint32_t used
    cdef uint32_t room

    def __init__(self, uint64_t zeros=0, bins=None):
        self.zeros = zeros
        PyMem_Free(self.cells)
        self.cells = NULL
        self.used = self.room = 0
        if bins:
            for index, count in bins.items():
                count_bin(self, index, count)
            collapse(self)

    def __dealloc__(self):
        PyMem_Free(self.cells)

    @property
    def bins(self):
        """Count by index, from the lowest; a copy."""
        cdef uint32_t place
        cdef list found = [
            (<int64_t>(self.cells[place] & PLACE_MASK) - INDEX_BIAS, self.cells[place] >> PLACE_BITS)
            for place in range(self.room)
            if self.cells[place]
        ]
        found.sort()
        return dict(found)

    def add(self, double value):
        """Count a value that is finite and not negative."""
        count_value(self, value)

    def merge(self, Sketch other not None):
        """Count everything that another sketch counts."""
        cdef uint32_t place
        cdef uint64_t cell
        self.zeros += other.zeros
        for place in range(other.room):
            cell = other.cells[place]
            if cell:
                count_bin(self, <int64_t>(cell & PLACE_MASK) - INDEX_BIAS, cell >> PLACE_BITS)
        collapse(self)

    def encode(self):
        """The message as the intake takes it."""
        collapse(self)
        return plain.encode_bins(self.zeros, self.bins)


cdef int count_value(Sketch sketch, double value) except -1:
    if value < VALUE_MIN:
        sketch.zeros += 1
        return 0
    # Infinity and what is no number would have no index.
    if not value <= 1.7976931348623157e308:
        raise ValueError("a sketch counts finite numbers")
    count_bin(sketch, <int64_t>bin_of(value, MULTIPLIER, OFFSET), 1)
    if sketch.used > BINS_MAX:
        collapse(sketch)
    return 0


cdef int count_bin(Sketch sketch, int64_t index, uint64_t count) except -1:
    """Add to a bin."""
    cdef uint64_t* cell
    cdef uint64_t before
    if not -INDEX_BIAS <= index < INDEX_BIAS:
        raise ValueError("no number has such an index")
    if count == 0:
        return 0
    if sketch.room == 0:
        make_room(sketch, ROOM_MIN)
    cell = find_cell(sketch.cells, sketch.room, index + INDEX_BIAS)
    if cell[0] == 0:
        # One cell stays empty, so that a search ends, and one in eight, so that it ends soon.
        if sketch.used >= sketch.room - (sketch.room >> 3) - 1:
            make_room(sketch, 2 * sketch.room)
            cell = find_cell(sketch.cells, sketch.room, index + INDEX_BIAS)
        cell[0] = index + INDEX_BIAS
        sketch.used += 1
    before = cell[0] >> PLACE_BITS
    if count > COUNT_MAX - before:
        count = COUNT_MAX - before
    cell[0] += count << PLACE_BITS
    return 0


cdef inline uint64_t* find_cell(uint64_t* cells, uint32_t room, uint64_t place) noexcept:
    """The cell of a bin, or the empty one where it belongs; some cell is empty or the bin's."""
    cdef uint32_t at = <uint32_t>place & (room - 1)
    while cells[at] and cells[at] & PLACE_MASK != place:
        at = (at + 1) & (room - 1)
    return &cells[at]


cdef int make_room(Sketch sketch, uint32_t room) except -1:
    """Move to so many cells, a power of two."""
    cdef uint64_t* cells = <uint64_t*>PyMem_Calloc(room, sizeof(uint64_t))
    cdef uint32_t place
    if cells == NULL:
        raise MemoryError
    for place in range(sketch.room):
        if sketch.cells[place]:
            find_cell(cells, room, sketch.cells[place] & PLACE_MASK)[0] = sketch.cells[place]
    PyMem_Free(sketch.cells)
    sketch.cells = cells
    sketch.room = room
    return 0


cdef int collapse(Sketch sketch) except -1:
    """Add the bins below the range that is kept to the lowest in it."""
    cdef uint64_t highest = 0
    cdef uint64_t lowest, below = 0
    cdef uint32_t place, gone = 0
    for place in range(sketch.room):
        if sketch.cells[place] & PLACE_MASK > highest:
            highest = sketch.cells[place] & PLACE_MASK
    if highest < BINS_MAX:
        return 0
    lowest = highest - BINS_MAX + 1
    for place in range(sketch.room):
        if sketch.cells[place] and sketch.cells[place] & PLACE_MASK < lowest:
            below += sketch.cells[place] >> PLACE_BITS
            gone += 1
    if not gone:
        return 0
    # An empty cell in a row of full ones would hide those behind it: all are placed anew.
    cdef uint64_t* before = sketch.cells
    cdef uint64_t* cells = <uint64_t*>PyMem_Calloc(sketch.room, sizeof(uint64_t))
    if cells == NULL:
        raise MemoryError
    for place in range(sketch.room):
        if before[place] and before[place] & PLACE_MASK >= lowest:
            find_cell(cells, sketch.room, before[place] & PLACE_MASK)[0] = before[place]
    sketch.cells = cells
    sketch.used -= gone
    PyMem_Free(before)
    return count_bin(sketch, <int64_t>lowest - INDEX_BIAS, below)


# ---------------------------------------------------------------- groups

U64_MASK = (1 << 64) - 1


# Sketches lead nowhere.
@cython.final
@cython.no_gc
cdef class Group:
    """What is known of the spans of one group in one bucket; the face is concentrator.Group's."""

    cdef public uint64_t hits
    cdef public uint64_t errors
    cdef public uint64_t top_level_hits
    # A sum of times may need more than 64 bits.
    cdef uint64_t duration_low
    cdef int64_t duration_high
    cdef Sketch _ok
    cdef Sketch _failed

    def __cinit__(self):
        self._ok = Sketch.__new__(Sketch)
        self._failed = Sketch.__new__(Sketch)

    @property
    def duration(self):
        return (<object>self.duration_high << 64) + self.duration_low

    @duration.setter
    def duration(self, value):
        self.duration_low = value & U64_MASK
        self.duration_high = value >> 64

    @property
    def ok(self):
        return self._ok

    @ok.setter
    def ok(self, Sketch sketch not None):
        self._ok = sketch

    @property
    def failed(self):
        return self._failed

    @failed.setter
    def failed(self, Sketch sketch not None):
        self._failed = sketch

    def add(self, int64_t duration, bint failed, bint top_level):
        """Count a span; its duration is in nanoseconds and not negative."""
        count_span(self, duration, failed, top_level)

    def merge(self, Group other not None):
        """Count everything another group counts."""
        self.hits += other.hits
        self.errors += other.errors
        self.duration = self.duration + other.duration
        self.top_level_hits += other.top_level_hits
        self._ok.merge(other._ok)
        self._failed.merge(other._failed)


cdef inline int count_span(Group group, int64_t duration, bint failed, bint top_level) except -1:
    group.hits += 1
    group.duration_low += <uint64_t>duration
    if group.duration_low < <uint64_t>duration:
        group.duration_high += 1
    if duration < 0:
        group.duration_high -= 1
    group.top_level_hits += top_level
    if failed:
        group.errors += 1
        return count_value(group._failed, <double>duration)
    return count_value(group._ok, <double>duration)
