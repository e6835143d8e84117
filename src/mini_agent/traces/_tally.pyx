"""Counting in C memory: twin of counts.Counts, concentrator.Group and sketch.Sketch.

What this is
    `Counts` walks the rows of a compiled chunk and notes for each span that counts when it
    ended, how long it took and under which key. After the request was kept these notes are
    added to groups, whose sketches count in C arrays. A span that is like one before makes no
    Python object on the way.

What it is not
    A second home of the rules. Whether a span counts, and its key, are asked of stats_key.py
    once for each combination of the inputs that those functions name, and remembered. Where a
    span is counted is asked of the concentrator: its bucket once for each stretch of time in a
    request, its group once for each key until buckets are taken.

How answers are found again
    The inputs of a span are pieces: slices of its row, each with a head that says which tag it
    is and how long. `Answers` is a hash table by pieces. Its slots point to copies of the inputs
    in one buffer, and to an `Entry` by key, so that spans that differ in something the key does
    not tell share one. A different order of the same tags is another slot of the same entry.

Limits
    Answers holds ENTRIES_MAX keys, SLOTS_MAX inputs and INPUTS_BYTES_MAX of their bytes. When one
    is reached nothing more is remembered, until so much found no room that it is better to begin
    anew, between two requests. What has more than INPUT_BYTES_MAX is not remembered.
    A sketch has a cell of eight bytes for each bin; it begins with ROOM_MIN and doubles.

Bounds
    The compiler checks none. Rows and tags are read below the counts of their chunk; pieces,
    slots, notes and cells are reached by indices below their room, each checked in this file.
"""

cimport cython
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.ref cimport PyObject
from libc.stdint cimport INT64_MAX, INT64_MIN, UINT32_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from mini_agent.traces import sketch as plain
from mini_agent.traces import stats_key as keys
from mini_agent.traces._express cimport Chunk, Row, Tag, Tags, known, known_tag
from mini_agent.traces.concentrator import ORIGINS_MAX as _ORIGINS_MAX
from mini_agent.traces.counts import BASE_SERVICE as _BASE_SERVICE
from mini_agent.traces.counts import origin_of, tags_of

include "_tally_sketch.pxi"
include "_tally_answers.pxi"


# One span that counts.
cdef struct Note:
    int64_t end
    int64_t duration
    # The number of the next of its run, from 1.
    uint32_t next
    uint8_t failed
    uint8_t top_level

# The notes under one key: numbers from 1.
cdef struct Run:
    uint32_t first
    uint32_t last

# What ended from `first` to `last` is counted in the bucket that begins at `start_ns`.
cdef struct Stretch:
    int64_t first
    int64_t last
    int64_t start_ns

cdef enum:
    NOTE_ROOM_MIN = 16
    RUN_ROOM_MIN = 8
    # What is too old, two open buckets, and what is too new.
    STRETCHES_MAX = 4
    # How much is counted between two places to stop at: a millisecond's work of either. To find a
    # group takes some microseconds, to count a span under it a tenth of one.
    SPANS_A_LOT = 10000
    GROUPS_A_LOT = 100

cdef uint64_t sources = 0


@cython.final
cdef class Source:
    """The spans of one environment and version, by key in the order in which keys came."""

    cdef uint64_t serial
    cdef Note* notes
    cdef uint32_t count
    cdef uint32_t room
    cdef Run* runs
    cdef uint32_t run_room
    cdef list entries
    # How many of them were counted.
    cdef uint32_t done
    cdef dict run_of
    # Entries that are not remembered, by key.
    cdef dict strays

    def __cinit__(self):
        global sources
        sources += 1
        self.serial = sources
        self.entries = []
        self.run_of = {}
        self.strays = {}

    def __dealloc__(self):
        PyMem_Free(self.notes)
        PyMem_Free(self.runs)

    cdef int note(
        self, Entry entry, int64_t start, int64_t duration, bint failed, bint top_level
    ) except -1:
        cdef Note* note
        cdef Run* run
        if self.count == self.room:
            self.make_room()
        if entry.source != self.serial:
            self.open_run(entry)
        note = &self.notes[self.count]
        self.count += 1
        # An end that is out of range is as good as the latest.
        if duration > 0 and start > INT64_MAX - duration:
            note.end = INT64_MAX
        elif duration < 0 and start < INT64_MIN - duration:
            note.end = INT64_MIN
        else:
            note.end = start + duration
        note.duration = duration
        note.failed = failed
        note.top_level = top_level
        note.next = 0
        run = &self.runs[entry.run]
        if run.last:
            self.notes[run.last - 1].next = self.count
        else:
            run.first = self.count
        run.last = self.count
        return 0

    cdef int make_room(self) except -1:
        cdef uint32_t room = 2 * self.room if self.room else NOTE_ROOM_MIN
        cdef Note* notes
        if self.room > UINT32_MAX >> 1:
            raise MemoryError
        notes = <Note*>PyMem_Realloc(self.notes, room * sizeof(Note))
        if notes == NULL:
            raise MemoryError
        self.notes = notes
        self.room = room
        return 0

    cdef int open_run(self, Entry entry) except -1:
        """Find or make the run of an entry that another source used last."""
        cdef uint32_t room, number = <uint32_t>len(self.entries)
        cdef Run* runs
        found = self.run_of.get(entry)
        if found is None:
            if number == self.run_room:
                room = 2 * number if number else RUN_ROOM_MIN
                runs = <Run*>PyMem_Realloc(self.runs, room * sizeof(Run))
                if runs == NULL:
                    raise MemoryError
                self.runs = runs
                self.run_room = room
            self.runs[number].first = self.runs[number].last = 0
            self.entries.append(entry)
            self.run_of[entry] = found = number
        entry.run = found
        entry.source = self.serial
        return 0

    cdef tuple add_lot(self, concentrator, origin, now_ns):
        """Count the notes of the next keys; gives how many, and how many of them under BLOCKED."""
        cdef Stretch stretches[STRETCHES_MAX]
        cdef Stretch* stretch = stretches
        cdef uint32_t known_stretches = 0
        cdef uint64_t number = answers.number_of(origin, concentrator.epoch)
        cdef uint64_t blocked = 0
        cdef uint32_t at, counted = 0, found = 0
        cdef Entry entry
        cdef Note* note
        stretch.first, stretch.last = 0, -1
        while self.done < <uint32_t>len(self.entries):
            if counted >= SPANS_A_LOT or found >= GROUPS_A_LOT:
                break
            entry = <Entry>self.entries[self.done]
            at = self.runs[self.done].first
            self.done += 1
            while at:
                counted += 1
                note = &self.notes[at - 1]
                at = note.next
                if not stretch.first <= note.end <= stretch.last:
                    stretch = find_stretch(stretches, &known_stretches, note.end)
                    if not stretch.first <= note.end <= stretch.last:
                        stretch.start_ns, stretch.first, stretch.last = concentrator.bucket_of(
                            note.end, now_ns
                        )
                if (
                    entry.group is None
                    or entry.origin != number
                    or entry.start_ns != stretch.start_ns
                ):
                    group, overflows = concentrator.find(stretch.start_ns, origin, entry.key)
                    found += 1
                    entry.group = <Group?>group
                    entry.overflows = overflows
                    entry.origin = number
                    entry.start_ns = stretch.start_ns
                count_span(entry.group, note.duration, note.failed, note.top_level)
                blocked += entry.overflows
        return counted, blocked


cdef Stretch* find_stretch(Stretch* stretches, uint32_t* count, int64_t end) noexcept:
    """The stretch with this end, or one to be filled."""
    cdef uint32_t index
    for index in range(count[0]):
        if stretches[index].first <= end <= stretches[index].last:
            return &stretches[index]
    if count[0] < STRETCHES_MAX:
        count[0] += 1
    index = count[0] - 1
    stretches[index].first, stretches[index].last = 0, -1
    return &stretches[index]


@cython.final
cdef class Counts:
    """The spans of one request; the face is that of counts.Counts."""

    cdef object sender
    cdef str service
    cdef str env
    cdef str version
    cdef dict by_source
    # Of the last chunk.
    cdef Source source
    cdef str source_env
    cdef str source_version

    def __init__(self, sender):
        self.sender = sender
        self.service = self.env = self.version = ""
        self.by_source = {}
        answers.make_room_in_time()

    def add(self, chunk, str env not None, str version not None):
        """Note a chunk all rules have seen."""
        self.env = self.env or env
        self.version = self.version or version
        if self.source is None or self.source_env != env or self.source_version != version:
            self.source = self.by_source.get((env, version))
            if self.source is None:
                self.source = self.by_source[env, version] = Source.__new__(Source)
            self.source_env = env
            self.source_version = version
        if isinstance(chunk, Chunk):
            self.add_rows(<Chunk>chunk)
        else:
            self.add_spans(chunk)

    cdef int add_rows(self, Chunk chunk) except -1:
        cdef Pieces pieces
        cdef Row* row
        cdef Slot* slot
        cdef Entry entry
        cdef uint32_t index
        cdef bint top_level
        cdef list spans = None
        if not self.service and 0 <= chunk.root_index < chunk.count:
            if known_tag(chunk, &chunk.rows[chunk.root_index].meta, BASE_SERVICE) != NULL:
                self.service = chunk.root.get_meta(_BASE_SERVICE) or ""
        for index in range(chunk.first, chunk.end):
            row = &chunk.rows[index]
            ask_verdict(&pieces, chunk, row)
            slot = answers.find(&pieces)
            if slot == NULL or slot.entry == NULL:
                spans = spans or chunk.spans
                meta, metrics = tags_of(spans[index - chunk.first])
                top_level = keys.is_top_level(metrics)
                entry = COUNTED if keys.is_counted(meta, metrics, top_level) else NOT_COUNTED
                answers.remember(&pieces, entry, top_level)
            else:
                top_level = slot.top_level
                entry = <Entry>slot.entry
            if entry is NOT_COUNTED:
                continue
            ask_key(&pieces, chunk, row)
            slot = answers.find(&pieces)
            if slot == NULL or slot.entry == NULL:
                spans = spans or chunk.spans
                entry = self.learn(&pieces, spans[index - chunk.first])
            else:
                entry = <Entry>slot.entry
            self.source.note(entry, row.start, row.duration, row.error != 0, top_level)
        return 0

    cdef Entry learn(self, Pieces* pieces, span):
        """Ask for the key of a span, which changes no row."""
        cdef bint may_keep = pieces.size <= INPUT_BYTES_MAX
        key = keys.stats_key(span, *tags_of(span))
        cdef Entry entry = answers.entry_of(key, self.source.strays, may_keep)
        if may_keep and answers.entries.get(entry.key) is entry:
            answers.remember(pieces, entry, False)
        return entry

    cdef int add_spans(self, chunk) except -1:
        """Note plain spans, which are rare where this twin runs."""
        self.service = self.service or chunk.root.get_meta(_BASE_SERVICE) or ""
        for span in chunk.spans:
            meta, metrics = tags_of(span)
            top_level = keys.is_top_level(metrics)
            if keys.is_counted(meta, metrics, top_level):
                key = keys.stats_key(span, meta, metrics)
                entry = answers.entry_of(key, self.source.strays, False)
                self.source.note(entry, span.start, span.duration, span.error != 0, top_level)
        return 0

    def add_to(self, concentrator, env_default, now_ns):
        """Count everything noted, once: after each lot, how many spans it had, and how many of
        them were counted under BLOCKED."""
        cdef Source source
        said_first = (self.env, self.version)
        for (env, version), source in self.by_source.items():
            if source.count:
                origin = origin_of(
                    self.sender, env, version, self.service, said_first, env_default
                )
                while source.done < <uint32_t>len(source.entries):
                    yield source.add_lot(concentrator, origin, now_ns)
