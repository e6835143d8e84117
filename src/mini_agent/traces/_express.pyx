"""Traces that are in order, from MessagePack to protobuf in C memory: twin of span.py.

What this is
    A chunk keeps its spans as rows of numbers and of slices into the body; nothing becomes a
    Python object unless a rule asks for it. `read_trace` makes the rows in one walk, the methods
    of `Chunk` answer the rules for all rows at once, and `encode` copies the slices to their
    place in the message. `Span` is a view of one row with the face of span.Span, for the rules
    that look at a span by itself.

What it is not
    A second home of the rules. What a service or a query becomes is asked of the rule, once for
    each text, and remembered (`Memory`). What is left to the plain twin, whole traces at a time:
    fields of other types than usual, texts that are not UTF-8, spans sent as arrays, spans with very
    many tags, links or events. It says None or False then, has changed nothing, and the plain
    modules see the same bytes.

How slices stay valid
    They point into the body, which the chunk holds, or into bytes in `Chunk.held`. A slice is
    replaced, never written to. Memory may forget a text while a chunk still uses it, hence `held`.

Bounds
    The compiler checks none. Every read of the body is behind a comparison with its end in this
    file; every index of a row or tag is below a count of this file. `read_trace` takes at most
    SPANS_MAX spans and TAGS_MAX tags; a Memory holds as many texts and bytes as it is told.
"""

import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.ref cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from mini_agent.traces.ordinary_url cimport measure_ordinary, replace_segments

from mini_agent.traces import info, lenient, span as plain
from mini_agent.wire.msgpack import WrongType

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL
    bint PyUnicode_IS_COMPACT_ASCII(object text)

cdef uint32_t SPANS_MAX = lenient.SPANS_MAX
cdef uint32_t TAGS_MAX = lenient.TAGS_MAX
cdef uint32_t RARE_BYTES_MAX = lenient.RARE_BYTES_MAX
cdef int PRIORITY_NONE = plain.PRIORITY_NONE

# Of one span. Keys are looked for one after the other, which takes ever longer the more there are;
# spans that real tracers send have below a hundred.
cdef uint32_t TAGS_EACH_MAX = 256

# Room behind a span's own tags for those that rules add; more of them are moved to the end.
cdef uint32_t TAGS_TO_COME = 6

# Payment cards have 12 to 16 digits; see obfuscate/cards.py, which decides.
cdef uint32_t CARD_SIZE_MIN = 12

include "_express_keys.pxi"
include "_express_memory.pxi"
include "_express_rows.pxi"
include "_express_read.pxi"
include "_express_write.pxi"


cdef int obfuscate_queries(Chunk chunk, Row* row, Memory queries) except -1:
    cdef Text dbms = NO_TEXT, text
    cdef Tag* tag = known_tag(chunk, &row.meta, DB_TYPE)
    cdef int id
    if tag != NULL:
        dbms.at, dbms.size = tag.value.text, tag.text_size
    row.resource = held_text(chunk, queries.find(row.resource, dbms), row.resource)
    put_text(chunk, &row.meta, "sql.query", 9, row.resource)
    for id in (DB_STATEMENT, DB_QUERY_TEXT):
        tag = known_tag(chunk, &row.meta, id)
        if tag != NULL and tag.text_size:
            text.at, text.size = tag.value.text, tag.text_size
            text = held_text(chunk, queries.find(text, dbms), text)
            tag.value.text, tag.text_size = text.at, text.size
    return 0


cdef int obfuscate_text(Chunk chunk, Row* row, SettledTexts settled, TextRule* rule) except -1:
    """Have a rule change the resource or a tag of a row, if it has it and must be asked."""
    cdef Tag* tag
    cdef Text text
    cdef Memory memory
    cdef str asked, made
    if rule.is_remembered:
        memory = <Memory>rule.rule
        row.resource = held_text(chunk, memory.find(row.resource, NO_TEXT), row.resource)
        return 0
    tag = find_tag(chunk, &row.meta, rule.tag.at, rule.tag.size)
    if tag == NULL or tag.text_size == 0:
        return 0
    if rule.is_url and rewrite_url(chunk, tag, settled):
        return 0
    text.at, text.size = tag.value.text, tag.text_size
    asked = string_of(text)
    made = (<object>rule.rule)(asked)
    if made is not asked:
        text = text_held_by(chunk.held, made)
        tag.value.text, tag.text_size = text.at, text.size
        if tag.text_size > chunk.longest_text:
            chunk.longest_text = tag.text_size
    return 0


cdef bint rewrite_url(Chunk chunk, Tag* tag, SettledTexts settled) except -1:
    """Do what the rule for URLs does, if the tag's text is an ordinary one."""
    cdef const unsigned char* url = <const unsigned char*>tag.value.text
    cdef Py_ssize_t digit, end, kept = tag.text_size
    cdef bytes changed
    digit, end = measure_ordinary(url, kept)
    if end < 0:
        return False
    if settled.url_query_removed and end < kept:
        kept = end + 1
    if settled.url_digits_removed and digit < end:
        changed = PyBytes_FromStringAndSize(NULL, kept)
        kept = replace_segments(url, digit, end, kept, <unsigned char*>PyBytes_AS_STRING(changed))
        chunk.held.append(changed)
        tag.value.text = PyBytes_AS_STRING(changed)
    tag.text_size = <uint32_t>kept
    return True


# No object it holds ever leads back to it.
@cython.no_gc
cdef class Chunk:
    """The spans of one trace that arrived together; the face is that of span.TraceChunk."""

    def __cinit__(self):
        self.held = []
        self.priority = PRIORITY_NONE
        self.origin = ""
        self.tags = {}

    def __dealloc__(self):
        PyMem_Free(self.rows)
        PyMem_Free(self.tag_list)
        PyMem_Free(self.slots)

    def __len__(self):
        return self.count

    def __iter__(self):
        cdef uint32_t index
        return iter([view(self, index) for index in range(self.count)])

    @property
    def spans(self):
        """A view of each span of the window."""
        cdef uint32_t index
        return [view(self, index) for index in range(self.first, self.end)]

    @property
    def root(self):
        """The span that stands for the whole chunk."""
        return view(self, checked(self, self.root_index))

    def open_window(self, Py_ssize_t first, Py_ssize_t end):
        """Have the rules see only the spans from `first` to before `end`."""
        if not 0 <= first < end <= <Py_ssize_t>self.count:
            raise IndexError(first, end)
        self.first, self.end = <uint32_t>first, <uint32_t>end

    def forget_window(self):
        """Let go of what are objects; rows are freed at once, however many they are."""
        cdef uint32_t index
        for index in range(self.first, self.end):
            if self.rows[index].rare:
                self.rare[self.rows[index].rare - 1] = plain.GONE

    def note_services(self):
        """Nothing is to be done: rows are found quickly."""

    # Reading

    def read_on(self, reader, findings):
        """Read some more spans of v0.4 or v0.5; false when they are not in order."""
        cdef Cursor cursor
        assert reader.body is self.body
        cursor.at = PyBytes_AS_STRING(self.body) + self.offset
        cursor.end = PyBytes_AS_STRING(self.body) + PyBytes_GET_SIZE(self.body)
        return read_rows(self, &cursor, reader, findings)

    # Rules, for all spans at once

    def select(self, indices):
        """A chunk of some of the spans, like this one in all else but the root."""
        cdef Chunk selected = Chunk.__new__(Chunk)
        cdef uint32_t position = 0
        cdef Py_ssize_t index
        assert indices, "a chunk without spans"
        selected.body = self.body
        selected.held = self.held
        selected.rare = self.rare
        selected.priority = self.priority
        selected.origin = self.origin
        selected.tags = self.tags
        selected.is_dropped = self.is_dropped
        selected.longest_key = self.longest_key
        selected.longest_text = self.longest_text
        selected.rows = <Row*>PyMem_Malloc(len(indices) * sizeof(Row))
        if selected.rows == NULL:
            raise MemoryError
        for index in indices:
            selected.rows[position] = self.rows[checked(self, index)]
            copy_tags(selected, &selected.rows[position].meta, self)
            copy_tags(selected, &selected.rows[position].metrics, self)
            position += 1
        selected.count = selected.end = position
        selected.root_index = position - 1
        return selected

    def settle(self, NormalTexts texts, findings):
        """Normalize all spans if they are ordinary ones; false when rules must do it."""
        cdef uint32_t index
        cdef Row* row
        cdef Tag* tag
        cdef Answer* answer
        cdef Text text
        cdef uint64_t trace_id = self.rows[0].trace_id
        cdef Mended mended = Mended()
        for index in range(self.first, self.end):
            row = &self.rows[index]
            if row.trace_id != trace_id or trace_id == 0 or row.span_id == 0:
                return False
            if row.parent_id == row.span_id and row.span_id == trace_id:
                return False
            if row.start < texts.start_ns_min or row.start > INT64_MAX - row.duration:
                return False
            if row.resource.size == 0 or row.type.size > texts.type_bytes_max:
                return False
        for index in range(self.first, self.end):
            row = &self.rows[index]
            answer = texts.service.find(row.service, NO_TEXT)
            if answer.reasons != NULL:
                row.service = held_text(self, answer, row.service)
                mended.add(answer)
            answer = texts.name.find(row.name, NO_TEXT)
            if answer.reasons != NULL:
                row.name = held_text(self, answer, row.name)
                mended.add(answer)
            tag = known_tag(self, &row.meta, ENV)
            if tag != NULL and tag.text_size:
                text.at, text.size = tag.value.text, tag.text_size
                answer = texts.env.find(text, NO_TEXT)
                if answer.reasons != NULL:
                    text = held_text(self, answer, text)
                    tag.value.text, tag.text_size = text.at, text.size
                    mended.add(answer)
            tag = known_tag(self, &row.meta, STATUS_CODE)
            if tag != NULL:
                text.at, text.size = tag.value.text, tag.text_size
                answer = texts.status_code.find(text, NO_TEXT)
                if answer.reasons != NULL:
                    mended.add(answer)
                    remove_tag(self, &row.meta, tag.key, tag.key_size)
        mended.tell(findings)
        return True

    def last_without_parent(self):
        """The index of the last span without a parent, or -1."""
        cdef Py_ssize_t index
        for index in range(<Py_ssize_t>self.count - 1, -1, -1):
            if self.rows[index].parent_id == 0:
                return index
        return -1

    def last_with_parent_elsewhere(self):
        """The index of the last span whose parent is not in this chunk, or -1."""
        cdef Py_ssize_t index
        for index in range(<Py_ssize_t>self.count - 1, -1, -1):
            if find_span(self, self.rows[index].parent_id) < 0:
                return index
        return -1

    def first_metric(self, str key):
        """A numeric tag of the root, else of the first span that has it."""
        cdef Py_ssize_t size
        cdef const char* at = PyUnicode_AsUTF8AndSize(key, &size)
        cdef uint32_t index
        cdef Tag* tag = find_tag(self, &self.rows[checked(self, self.root_index)].metrics, at, size)
        if tag != NULL:
            return tag.value.number
        for index in range(self.count):
            tag = find_tag(self, &self.rows[index].metrics, at, size)
            if tag != NULL:
                return tag.value.number
        return None

    def first_texts(self, tuple keys, Py_ssize_t characters_max):
        """The text of each of several tags; see the plain twin.

        Chunks of one tracer nearly always say the same: then the same tuple is given again.
        """
        global last_keys, last_texts, last_answer
        cdef Py_ssize_t size
        cdef const char* at
        cdef str key
        cdef bytes joined
        cdef Text text
        cdef int number = 0
        cdef bint is_same = keys is last_keys and self.body is not None
        cdef list texts = None
        for key in keys:
            at = PyUnicode_AsUTF8AndSize(key, &size)
            text = first_text(self, at, size)
            if is_same and not same(text, text_of(<bytes>last_texts[number])):
                is_same = False
                texts = list(last_texts[:number])
            if not is_same:
                if texts is None:
                    texts = []
                texts.append(bytes_of(text))
            number += 1
        if not is_same:
            last_keys, last_texts = keys, texts
            last_answer = tuple([bytes(each).decode()[:characters_max] for each in texts])
        return last_answer

    def mark_where(self, str key, str mark):
        """Set the numeric tag `mark` to 1 where there is one named `key`."""
        cdef Py_ssize_t size, mark_size
        cdef const char* at = PyUnicode_AsUTF8AndSize(key, &size)
        cdef const char* mark_at = PyUnicode_AsUTF8AndSize(mark, &mark_size)
        cdef uint32_t index
        self.held.append(mark)
        for index in range(self.first, self.end):
            if find_tag(self, &self.rows[index].metrics, at, size) != NULL:
                put_tag(self, &self.rows[index].metrics, mark_at, mark_size).value.number = 1.0

    def mark_entries(self, str mark):
        """Set the numeric tag `mark` to 1 on spans whose service is not that of their parent."""
        cdef Py_ssize_t size
        cdef const char* at = PyUnicode_AsUTF8AndSize(mark, &size)
        cdef uint32_t index
        cdef Py_ssize_t parent
        cdef Row* row
        self.held.append(mark)
        for index in range(self.first, self.end):
            row = &self.rows[index]
            parent = find_span(self, row.parent_id) if row.parent_id else -1
            if parent < 0 or not same(self.rows[parent].service, row.service):
                put_tag(self, &row.metrics, at, size).value.number = 1.0

    def update_meta(self, tags, str unless_named=""):
        """Add or replace several tags of every span, apart from those with a certain name."""
        cdef bytes key, value
        cdef bytes name = unless_named.encode()
        cdef Text name_text = text_of(name), text
        cdef uint32_t index
        cdef Row* row
        for key, value in tags.raw.items():
            self.held.append(key)
            self.held.append(value)
            text = text_of(value)
            for index in range(self.first, self.end):
                row = &self.rows[index]
                if not name_text.size or not same(row.name, name_text):
                    put_text(self, &row.meta, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), text)
                    note_text(row, text)

    def spans_to_obfuscate(self, SettledTexts settled):
        """The spans that the rules must look at; what is known of the others is done."""
        cdef uint32_t index
        cdef int number
        cdef Row* row
        cdef TextRule* rule
        cdef list left = []
        if settled.look_at_all:
            return self.spans
        for index in range(self.first, self.end):
            row = &self.rows[index]
            if settled.cards and (row.may_have_card or row.rare):
                left.append(view(self, index))
                continue
            for number in range(settled.rule_count):
                rule = &settled.rules[number]
                if not same(rule.type, row.type):
                    continue
                if not rule.is_query:
                    obfuscate_text(self, row, settled, rule)
                elif row.resource.size:
                    obfuscate_queries(self, row, settled.queries)
                else:
                    left.append(view(self, index))
        return left

    def has_longer_texts(self, uint32_t resource_bytes_max, uint32_t key_bytes_max,
                         uint32_t value_bytes_max):
        """Whether any span may have a resource, a tag's name or a tag's text of more bytes."""
        cdef uint32_t index
        if self.longest_key > key_bytes_max or self.longest_text > value_bytes_max:
            return True
        for index in range(self.first, self.end):
            if self.rows[index].resource.size > resource_bytes_max:
                return True
        return False

    # Writing

    def encode(self, bytes head, bytes tail):
        """The chunk as a field of its payload, with what stands before and behind the spans."""
        return written(self, head, tail)

    def encode_window(self):
        """The spans of the window as fields of a chunk."""
        return written(self, None, None)


# What `first_texts` answered last: the keys, the texts as bytes, the answer.
cdef tuple last_keys = None
cdef list last_texts = []
cdef tuple last_answer = ()


cdef Text first_text(Chunk chunk, const char* key, Py_ssize_t size):
    cdef uint32_t index
    cdef Row* root = &chunk.rows[checked(chunk, chunk.root_index)]
    cdef Tag* tag = find_tag(chunk, &root.meta, key, size)
    cdef Text text
    if tag != NULL and tag.text_size:
        text.at, text.size = tag.value.text, tag.text_size
        return text
    for index in range(chunk.first, chunk.end):
        tag = find_tag(chunk, &chunk.rows[index].meta, key, size)
        if tag != NULL and tag.text_size and chunk.rows[index].span_id != root.span_id:
            text.at, text.size = tag.value.text, tag.text_size
            return text
    return NO_TEXT


cdef Py_ssize_t find_span(Chunk chunk, uint64_t span_id) except -2:
    """The index of the row of a span, of one that comes twice the last; or -1."""
    cdef uint32_t index
    if chunk.slots == NULL:
        chunk.slot_mask = 16
        while chunk.slot_mask < 2 * <uint64_t>chunk.count:
            chunk.slot_mask *= 2
        chunk.slots = <uint32_t*>PyMem_Malloc(chunk.slot_mask * sizeof(uint32_t))
        if chunk.slots == NULL:
            raise MemoryError
        memset(chunk.slots, 0, chunk.slot_mask * sizeof(uint32_t))
        chunk.slot_mask -= 1
        for index in range(chunk.count):
            chunk.slots[slot_of(chunk, chunk.rows[index].span_id)] = index + 1
    return <Py_ssize_t>chunk.slots[slot_of(chunk, span_id)] - 1


cdef uint64_t slot_of(Chunk chunk, uint64_t span_id) noexcept:
    cdef uint64_t slot = (span_id ^ SEED) * <uint64_t>0x9E3779B97F4A7C15
    slot = (slot ^ (slot >> 32)) & chunk.slot_mask
    while chunk.slots[slot] and chunk.rows[chunk.slots[slot] - 1].span_id != span_id:
        slot = (slot + 1) & chunk.slot_mask
    return slot


@cython.no_gc
@cython.freelist(64)
cdef class Span:
    """One row of a chunk, with the face of span.Span."""

    cdef Chunk chunk
    cdef uint32_t index

    cdef Row* row(self) noexcept:
        return &self.chunk.rows[self.index]

    cdef Text hold(self, str value):
        return text_held_by(self.chunk.held, value)

    @property
    def trace_id(self):
        return self.row().trace_id

    @trace_id.setter
    def trace_id(self, uint64_t value):
        self.row().trace_id = value

    @property
    def span_id(self):
        return self.row().span_id

    @span_id.setter
    def span_id(self, uint64_t value):
        self.row().span_id = value
        PyMem_Free(self.chunk.slots)
        self.chunk.slots = NULL

    @property
    def parent_id(self):
        return self.row().parent_id

    @parent_id.setter
    def parent_id(self, uint64_t value):
        self.row().parent_id = value

    @property
    def start(self):
        return self.row().start

    @start.setter
    def start(self, int64_t value):
        self.row().start = value

    @property
    def duration(self):
        return self.row().duration

    @duration.setter
    def duration(self, int64_t value):
        self.row().duration = value

    @property
    def error(self):
        return self.row().error

    @error.setter
    def error(self, int32_t value):
        self.row().error = value

    @property
    def service(self):
        return string_of(self.row().service)

    @service.setter
    def service(self, str value):
        self.row().service = self.hold(value)

    @property
    def name(self):
        return string_of(self.row().name)

    @name.setter
    def name(self, str value):
        self.row().name = self.hold(value)

    @property
    def resource(self):
        return string_of(self.row().resource)

    @resource.setter
    def resource(self, str value):
        self.row().resource = self.hold(value)

    @property
    def type(self):
        return string_of(self.row().type)

    @type.setter
    def type(self, str value):
        self.row().type = self.hold(value)

    @property
    def meta_struct(self):
        return rare_of(self.chunk, self.row()).meta_struct

    @property
    def links(self):
        return rare_of(self.chunk, self.row()).links

    @property
    def events(self):
        return rare_of(self.chunk, self.row()).events

    def get_meta(self, str key):
        """The tag of that name, or None."""
        cdef Py_ssize_t size
        cdef const char* at = PyUnicode_AsUTF8AndSize(key, &size)
        cdef Tag* tag = find_tag(self.chunk, &self.row().meta, at, size)
        if tag == NULL:
            return None
        return PyUnicode_DecodeUTF8(tag.value.text, tag.text_size, NULL)

    def has_meta(self, str key):
        """Whether there is a tag of that name, even an empty one."""
        cdef Py_ssize_t size
        cdef const char* at = PyUnicode_AsUTF8AndSize(key, &size)
        return find_tag(self.chunk, &self.row().meta, at, size) != NULL

    def set_meta(self, str key, str value):
        """Add or replace one tag."""
        cdef Text key_text = self.hold(key), text = self.hold(value)
        put_text(self.chunk, &self.row().meta, key_text.at, key_text.size, text)
        note_text(self.row(), text)

    def update_meta(self, tags):
        """Add or replace several tags."""
        cdef bytes key, value
        cdef Text text
        for key, value in tags.raw.items():
            self.chunk.held.append(key)
            self.chunk.held.append(value)
            text = text_of(value)
            put_text(self.chunk, 
                &self.row().meta, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), text
            )
            note_text(self.row(), text)

    def remove_meta(self, str key):
        """Remove a tag; nothing happens when there is none."""
        cdef Text text = self.hold(key)
        remove_tag(self.chunk, &self.row().meta, text.at, text.size)

    def meta_items(self):
        """All tags in their order."""
        cdef Tags* tags = &self.row().meta
        cdef Tag* tag
        cdef uint32_t index
        cdef list items = []
        for index in range(tags.first, tags.first + tags.count):
            tag = &self.chunk.tag_list[index]
            items.append((PyUnicode_DecodeUTF8(tag.key, tag.key_size, NULL),
                          PyUnicode_DecodeUTF8(tag.value.text, tag.text_size, NULL)))
        return iter(items)

    def has_longer_tags(self, uint32_t key_bytes_max, uint32_t value_bytes_max):
        """Whether any tag's name or text has more bytes."""
        cdef Tags* meta = &self.row().meta
        cdef Tags* metrics = &self.row().metrics
        cdef uint32_t index
        for index in range(meta.first, meta.first + meta.count):
            if self.chunk.tag_list[index].key_size > key_bytes_max:
                return True
            if self.chunk.tag_list[index].text_size > value_bytes_max:
                return True
        for index in range(metrics.first, metrics.first + metrics.count):
            if self.chunk.tag_list[index].key_size > key_bytes_max:
                return True
        return False

    def get_metric(self, str key):
        """The numeric tag of that name, or None."""
        cdef Py_ssize_t size
        cdef const char* at = PyUnicode_AsUTF8AndSize(key, &size)
        cdef Tag* tag = find_tag(self.chunk, &self.row().metrics, at, size)
        return None if tag == NULL else tag.value.number

    def set_metric(self, str key, double value):
        """Add or replace one numeric tag."""
        cdef Text text = self.hold(key)
        put_tag(self.chunk, &self.row().metrics, text.at, text.size).value.number = value

    def remove_metric(self, str key):
        """Remove a numeric tag; nothing happens when there is none."""
        cdef Text text = self.hold(key)
        remove_tag(self.chunk, &self.row().metrics, text.at, text.size)

    def metric_items(self):
        """All numeric tags in their order."""
        cdef Tags* tags = &self.row().metrics
        cdef Tag* tag
        cdef uint32_t index
        cdef list items = []
        for index in range(tags.first, tags.first + tags.count):
            tag = &self.chunk.tag_list[index]
            items.append((PyUnicode_DecodeUTF8(tag.key, tag.key_size, NULL), tag.value.number))
        return iter(items)


cdef Span view(Chunk chunk, uint32_t index):
    cdef Span span = Span.__new__(Span)
    span.chunk = chunk
    span.index = index
    return span
