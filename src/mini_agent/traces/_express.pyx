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
    fields of other types than usual, texts that are not UTF-8, spans sent as arrays. It says None
    or False then, has changed nothing, and the plain modules see the same bytes.

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
from libc.string cimport memchr, memcmp, memcpy, memset

from mini_agent.traces import info, lenient, span as plain
from mini_agent.wire.msgpack import WrongType

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL

cdef uint32_t SPANS_MAX = lenient.SPANS_MAX
cdef uint32_t TAGS_MAX = lenient.TAGS_MAX
cdef int PRIORITY_NONE = plain.PRIORITY_NONE

# Room behind a span's own tags for those that rules add; more of them are moved to the end.
cdef uint32_t TAGS_TO_COME = 6

# Payment cards have 12 to 16 digits; see obfuscate/cards.py, which decides.
cdef uint32_t CARD_SIZE_MIN = 12


# ---------------------------------------------------------------- keys that are asked for by name

# Ids are below 128, two words of bits. Those of peer tags stand together and in their order.
KNOWN_KEYS = (
    *sorted(name.encode() for name in info.PEER_TAGS),
    b"env", b"version", b"_dd.hostname", b"runtime-id",
    b"_dd.origin", b"http.status_code", b"http.url",
    b"sql.query", b"db.statement", b"db.query.text",
    b"span.kind", b"http.method", b"http.route", b"http.endpoint", b"_dd.svc_src",
    b"rpc.grpc.status_code", b"grpc.code", b"rpc.grpc.status.code", b"grpc.status.code",
    b"_sampling_priority_v1", b"_dd.top_level", b"_top_level", b"_dd.measured",
    b"_dd.partial_version",
)
assert len(KNOWN_KEYS) < 128

cdef enum:
    KNOWN_SLOTS = 512

cdef struct KnownSlot:
    const char* key
    uint32_t size
    uint8_t id

cdef KnownSlot known_slots[KNOWN_SLOTS]


cdef inline uint64_t load(const char* at, uint32_t size) noexcept nogil:
    """Up to eight bytes as a number."""
    cdef uint64_t value = 0
    memcpy(&value, at, size)
    return value


cdef inline uint64_t load8(const char* at) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, at, 8)
    return value


cdef inline uint64_t load4(const char* at) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, at, 4)
    return value


cdef inline uint64_t key_hash(const char* at, uint32_t size) noexcept nogil:
    """Of a key's size and ends: enough to tell apart the keys that tracers send."""
    cdef uint64_t head, tail
    if size >= 8:
        head = load8(at)
        tail = load8(at + size - 8)
    elif size >= 4:
        head = load4(at)
        tail = load4(at + size - 4)
    else:
        head = load(at, size)
        tail = 0
    head = (head ^ (<uint64_t>size << 56)) * <uint64_t>0x9E3779B97F4A7C15
    head = (head ^ tail ^ (head >> 29)) * <uint64_t>0xBF58476D1CE4E5B9
    return head ^ (head >> 32)


cdef inline uint8_t known_id(const char* at, uint32_t size, uint64_t hash) noexcept nogil:
    cdef uint32_t index = <uint32_t>hash & (KNOWN_SLOTS - 1)
    cdef KnownSlot* slot
    while True:
        slot = &known_slots[index]
        if slot.id == 0:
            return 0
        if slot.size == size and memcmp(slot.key, at, size) == 0:
            return slot.id
        index = (index + 1) & (KNOWN_SLOTS - 1)


cdef int known(bytes key) except -1:
    """The id of a known key, or 0."""
    cdef const char* at = PyBytes_AS_STRING(key)
    cdef uint32_t size = <uint32_t>PyBytes_GET_SIZE(key)
    return known_id(at, size, key_hash(at, size))


cdef int learn_known_keys() except -1:
    cdef uint32_t index
    cdef bytes key
    memset(known_slots, 0, sizeof(known_slots))
    for number, key in enumerate(KNOWN_KEYS, 1):
        index = <uint32_t>key_hash(PyBytes_AS_STRING(key), <uint32_t>PyBytes_GET_SIZE(key))
        index &= KNOWN_SLOTS - 1
        while known_slots[index].id:
            index = (index + 1) & (KNOWN_SLOTS - 1)
        known_slots[index].key = PyBytes_AS_STRING(key)
        known_slots[index].size = <uint32_t>PyBytes_GET_SIZE(key)
        known_slots[index].id = number
    return 0


learn_known_keys()

cdef int ENV = known(b"env")
cdef int STATUS_CODE = known(b"http.status_code")
cdef int HTTP_URL = known(b"http.url")
cdef int DB_TYPE = known(b"db.type")
cdef int SQL_QUERY = known(b"sql.query")
cdef int DB_STATEMENT = known(b"db.statement")
cdef int DB_QUERY_TEXT = known(b"db.query.text")


# ---------------------------------------------------------------- texts

cdef inline Text text_of(bytes held) noexcept:
    cdef Text text
    text.at = PyBytes_AS_STRING(held)
    text.size = <uint32_t>PyBytes_GET_SIZE(held)
    return text


cdef inline str string_of(Text text):
    return PyUnicode_DecodeUTF8(text.at, text.size, NULL)


cdef inline bytes bytes_of(Text text):
    return PyBytes_FromStringAndSize(text.at, text.size)


cdef inline bint same(Text one, Text other) noexcept nogil:
    return one.size == other.size and memcmp(one.at, other.at, one.size) == 0


cdef inline bint is_ascii(const char* at, uint32_t size) noexcept nogil:
    cdef uint64_t high = 0
    cdef uint32_t index = 0
    if size >= 8:
        while index + 8 <= size:
            high |= load8(at + index)
            index += 8
        # The last eight, some of them once more.
        high |= load8(at + size - 8)
    else:
        while index < size:
            high |= <uint8_t>at[index]
            index += 1
    return (high & <uint64_t>0x8080808080808080) == 0


cdef bint is_utf8(const uint8_t* at, uint32_t size) noexcept nogil:
    """Strictly: no surrogates, no overlong forms, nothing above U+10FFFF."""
    cdef uint32_t index = 0, more
    cdef uint8_t first, low, high
    while index < size:
        first = at[index]
        index += 1
        if first < 0x80:
            continue
        low, high = 0x80, 0xBF
        if 0xC2 <= first <= 0xDF:
            more = 1
        elif 0xE0 <= first <= 0xEF:
            more = 2
            if first == 0xE0:
                low = 0xA0
            elif first == 0xED:
                high = 0x9F
        elif 0xF0 <= first <= 0xF4:
            more = 3
            if first == 0xF0:
                low = 0x90
            elif first == 0xF4:
                high = 0x8F
        else:
            return False
        if more > size - index:
            return False
        if not low <= at[index] <= high:
            return False
        index += 1
        more -= 1
        while more:
            if at[index] & 0xC0 != 0x80:
                return False
            index += 1
            more -= 1
    return True


cdef inline bint may_be_card(const char* at, uint32_t size) noexcept nogil:
    """Whether a text could be a card number: digits, blanks and dashes, 12 to 16 digits."""
    cdef uint32_t index, digits = 0
    if size < CARD_SIZE_MIN or at[0] > c"9":
        return False
    for index in range(size):
        if c"0" <= at[index] <= c"9":
            digits += 1
        elif at[index] != c" " and at[index] != c"-":
            return False
    return 12 <= digits <= 16


# ---------------------------------------------------------------- memory of what texts become

cdef struct Answer:
    uint64_t hash
    Text key
    Text context
    # What the rule made of it, unless there is no holder: then it changes nothing.
    Text text
    # Borrowed from Memory.kept, or NULL: what `text` points into, and why it is another.
    PyObject* holder
    PyObject* reasons
    bint is_used


cdef uint64_t SEED = int.from_bytes(os.urandom(8), "little")


cdef inline uint64_t text_hash(Text text, uint64_t hash) noexcept nogil:
    cdef uint32_t index = 0
    hash ^= text.size
    while index + 8 <= text.size:
        hash = (hash ^ load8(text.at + index)) * <uint64_t>0x9E3779B97F4A7C15
        hash ^= hash >> 32
        index += 8
    hash = (hash ^ load(text.at + index, text.size - index)) * <uint64_t>0xBF58476D1CE4E5B9
    return hash ^ (hash >> 29)


cdef class Memory:
    """What a rule made of texts, within bounds; when it is full it starts anew.

    Args:
        ask: The rule: a text (and its context, if there is one) to a text, or to a pair of a
            text and the reasons for it.
        entries_max, bytes_max: Most that is held.
        text_bytes_max: Longer texts are asked every time.
    """

    cdef object ask
    cdef Answer* answers
    cdef uint32_t slots
    cdef uint32_t count
    cdef uint32_t entries_max
    cdef Py_ssize_t size
    cdef Py_ssize_t bytes_max
    cdef uint32_t text_bytes_max
    cdef list kept
    # The last answer that was not remembered, and what holds it.
    cdef Answer passing
    cdef list passing_kept

    def __init__(self, ask, entries_max, bytes_max, text_bytes_max):
        self.ask = ask
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self.text_bytes_max = text_bytes_max
        self.kept = []
        self.passing_kept = []

    def __dealloc__(self):
        PyMem_Free(self.answers)

    cdef Answer* find(self, Text key, Text context) except NULL:
        """The answer for a text; valid until the next call."""
        cdef uint64_t hash = text_hash(key, SEED)
        cdef uint32_t index
        cdef Answer* answer
        if context.size:
            hash = text_hash(context, hash)
        if self.slots:
            index = <uint32_t>hash & (self.slots - 1)
            while self.answers[index].is_used:
                answer = &self.answers[index]
                if answer.hash == hash and same(answer.key, key) and same(answer.context, context):
                    return answer
                index = (index + 1) & (self.slots - 1)
        return self.learn(key, context, hash)

    cdef Answer* learn(self, Text key, Text context, uint64_t hash) except NULL:
        cdef Py_ssize_t size
        cdef bytes key_bytes = bytes_of(key), context_bytes, changed
        cdef tuple reasons = ()
        cdef list holders = [key_bytes]
        cdef Answer answer
        cdef uint32_t index
        if context.size:
            context_bytes = bytes_of(context)
            holders.append(context_bytes)
            made = self.ask(key_bytes.decode(), context_bytes.decode())
        else:
            context_bytes = b""
            made = self.ask(key_bytes.decode())
        if isinstance(made, tuple):
            made, reasons = made
        changed = made.encode("utf-8", "replace")
        memset(&answer, 0, sizeof(answer))
        answer.hash = hash
        answer.key = text_of(key_bytes)
        answer.context = text_of(context_bytes)
        answer.text = answer.key
        answer.is_used = True
        if changed != key_bytes:
            holders.append(changed)
            answer.text = text_of(changed)
            answer.holder = <PyObject*>changed
        if reasons:
            holders.append(reasons)
            answer.reasons = <PyObject*>reasons
        size = key.size + context.size + PyBytes_GET_SIZE(changed)
        if size > self.bytes_max or key.size > self.text_bytes_max:
            self.passing = answer
            self.passing_kept = holders
            return &self.passing
        if self.count >= self.entries_max or self.size + size > self.bytes_max:
            self.forget()
        if 2 * (self.count + 1) > self.slots:
            self.grow()
        index = <uint32_t>hash & (self.slots - 1)
        while self.answers[index].is_used:
            index = (index + 1) & (self.slots - 1)
        self.answers[index] = answer
        self.kept.extend(holders)
        self.count += 1
        self.size += size
        return &self.answers[index]

    cdef int forget(self) except -1:
        memset(self.answers, 0, self.slots * sizeof(Answer))
        self.count = 0
        self.size = 0
        self.kept = []
        return 0

    cdef int grow(self) except -1:
        cdef uint32_t slots = 2 * self.slots if self.slots else 64
        cdef Answer* answers = <Answer*>PyMem_Malloc(slots * sizeof(Answer))
        cdef uint32_t old, index
        if answers == NULL:
            raise MemoryError
        memset(answers, 0, slots * sizeof(Answer))
        for old in range(self.slots):
            if self.answers[old].is_used:
                index = <uint32_t>self.answers[old].hash & (slots - 1)
                while answers[index].is_used:
                    index = (index + 1) & (slots - 1)
                answers[index] = self.answers[old]
        PyMem_Free(self.answers)
        self.answers = answers
        self.slots = slots
        return 0


cdef Text NO_TEXT
NO_TEXT.at = ""
NO_TEXT.size = 0


cdef class NormalTexts:
    """The normalizer's rules for texts, with a memory each; see normalize.Normalizer."""

    cdef Memory service
    cdef Memory name
    cdef Memory env
    cdef Memory status_code
    cdef int64_t start_ns_min
    cdef uint32_t type_bytes_max

    def __init__(self, *, service, name, env, status_code, start_ns_min, type_bytes_max,
                 entries_max, text_bytes_max):
        cdef Py_ssize_t bytes_max = 2 * entries_max * text_bytes_max
        self.service = Memory(service, entries_max, bytes_max, text_bytes_max)
        self.name = Memory(name, entries_max, bytes_max, text_bytes_max)
        self.env = Memory(env, entries_max, bytes_max, text_bytes_max)
        self.status_code = Memory(status_code, entries_max, bytes_max, text_bytes_max)
        self.start_ns_min = start_ns_min
        self.type_bytes_max = type_bytes_max


# What the type of a span asks for; LOOK leaves the span to the rules.
cdef enum Care:
    NOTHING
    LOOK
    URL
    QUERY
    COMMAND

# The types that have a rule are a dozen.
cdef enum:
    TYPES_MAX = 32

# A command or a query that is longer mostly does not come again. Source: obfuscate/cache.py.
cdef uint32_t REMEMBERED_BYTES_MAX = 8192
cdef uint32_t REMEMBERED_MAX = 2048


cdef class SettledTexts:
    """What the obfuscator's rules for queries, commands and URLs made of texts.

    Args:
        look_at_all: There is a rule for spans of every type.
        cards: Whether cards are looked for.
        look_at_types: Of spans that a rule must look at.
        url_types, query_types, command_types: Of spans whose URL, or resource, is enough to know;
            `look_at_types` comes first.
        query: A query and its database's name as the tracer wrote it to a query.
        command, url: Text to text.
        characters_max: Most that is remembered of queries; 0 for none.
    """

    cdef bint look_at_all
    cdef bint cards
    cdef Text types[TYPES_MAX]
    cdef Care cares[TYPES_MAX]
    cdef int type_count
    cdef list held
    cdef Memory queries
    cdef Memory commands
    cdef object url

    def __init__(self, *, look_at_all, cards, look_at_types, url_types, query_types,
                 command_types, query, command, url, characters_max):
        cdef bytes name
        self.look_at_all = look_at_all
        self.cards = cards
        self.held = []
        for care, names in ((LOOK, look_at_types), (URL, url_types), (QUERY, query_types),
                            (COMMAND, command_types)):
            for each in names:
                if self.type_count >= TYPES_MAX:
                    self.look_at_all = True
                    break
                name = each.encode()
                self.held.append(name)
                self.types[self.type_count] = text_of(name)
                self.cares[self.type_count] = care
                self.type_count += 1
        self.queries = Memory(query, REMEMBERED_MAX, characters_max, REMEMBERED_BYTES_MAX)
        self.commands = Memory(command, REMEMBERED_MAX, characters_max, REMEMBERED_BYTES_MAX)
        self.url = url

    cdef Care care_of(self, Text type) noexcept:
        cdef int index
        for index in range(self.type_count):
            if same(self.types[index], type):
                return self.cares[index]
        return NOTHING


cdef uint8_t url_marks[256]

# In front of the query of a URL that needs no change: scheme, host, port and path of RFC 3986.
for _mark in bytearray(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:/"
):
    url_marks[_mark] = 1


cdef bint is_plain_url(Text url) noexcept nogil:
    """Whether the rule changes nothing: no user, escapes or fragment, and a common scheme."""
    cdef uint32_t index, start, end
    cdef bint colon = False
    if url.size >= 7 and memcmp(url.at, "http://", 7) == 0:
        start = 7
    elif url.size >= 8 and memcmp(url.at, "https://", 8) == 0:
        start = 8
    else:
        return False
    # The host: one colon at most, and digits behind it.
    index = start
    while index < url.size and url.at[index] != c"/" and url.at[index] != c"?":
        if not url_marks[<uint8_t>url.at[index]]:
            return False
        if url.at[index] == c":":
            if colon:
                return False
            colon = True
        elif colon and not c"0" <= url.at[index] <= c"9":
            return False
        index += 1
    while index < url.size and url.at[index] != c"?":
        if not url_marks[<uint8_t>url.at[index]]:
            return False
        index += 1
    # The query: no control characters, no fragment, ASCII.
    while index < url.size:
        if not c" " <= url.at[index] < 0x7F or url.at[index] == c"#":
            return False
        index += 1
    return True


# ---------------------------------------------------------------- reading

cdef struct Cursor:
    const char* at
    const char* end


# Readers answer false for what is not in order, and for the end of the body.

cdef inline uint64_t big_endian(const char* at, int width) noexcept nogil:
    cdef uint64_t value = 0
    cdef int index
    for index in range(width):
        value = value << 8 | <uint8_t>at[index]
    return value


cdef inline bint read_length(Cursor* cursor, int width, uint64_t* length) noexcept nogil:
    if cursor.end - cursor.at < width:
        return False
    length[0] = big_endian(cursor.at, width)
    cursor.at += width
    return True


cdef inline bint read_text(Cursor* cursor, Text* text) noexcept nogil:
    """A string or binary that is UTF-8; nil is empty."""
    cdef uint8_t marker
    cdef uint64_t size
    if cursor.at >= cursor.end:
        return False
    marker = <uint8_t>cursor.at[0]
    cursor.at += 1
    if marker & 0xE0 == 0xA0:
        size = marker & 0x1F
    elif marker == 0xD9 or marker == 0xC4:
        if not read_length(cursor, 1, &size):
            return False
    elif marker == 0xDA or marker == 0xC5:
        if not read_length(cursor, 2, &size):
            return False
    elif marker == 0xDB or marker == 0xC6:
        if not read_length(cursor, 4, &size):
            return False
    elif marker == 0xC0:
        size = 0
    else:
        return False
    if size > <uint64_t>(cursor.end - cursor.at):
        return False
    text.at = cursor.at
    text.size = <uint32_t>size
    cursor.at += size
    return is_ascii(text.at, text.size) or is_utf8(<const uint8_t*>text.at, text.size)


cdef inline bint is_nil(Cursor* cursor) noexcept nogil:
    return cursor.at < cursor.end and <uint8_t>cursor.at[0] == 0xC0


cdef inline bint read_unsigned(Cursor* cursor, uint64_t* value) noexcept nogil:
    """An integer that is not negative; nil is zero."""
    cdef int64_t number
    if cursor.at < cursor.end and <uint8_t>cursor.at[0] == 0xCF:
        cursor.at += 1
        return read_length(cursor, 8, value)
    if not read_signed(cursor, &number) or number < 0:
        return False
    value[0] = <uint64_t>number
    return True


cdef inline bint read_signed(Cursor* cursor, int64_t* value) noexcept nogil:
    """An integer of 64 bits with its sign; nil is zero."""
    cdef uint8_t marker
    cdef uint64_t raw
    cdef int width
    if cursor.at >= cursor.end:
        return False
    marker = <uint8_t>cursor.at[0]
    cursor.at += 1
    if marker < 0x80:
        value[0] = marker
        return True
    if marker >= 0xE0:
        value[0] = <int64_t>marker - 0x100
        return True
    if 0xCC <= marker <= 0xCF:
        width = 1 << (marker - 0xCC)
        if not read_length(cursor, width, &raw) or raw > <uint64_t>INT64_MAX:
            return False
        value[0] = <int64_t>raw
        return True
    if 0xD0 <= marker <= 0xD3:
        width = 1 << (marker - 0xD0)
        if not read_length(cursor, width, &raw):
            return False
        # The sign stands in the highest bit of the width.
        raw <<= 64 - 8 * width
        value[0] = <int64_t>raw >> (64 - 8 * width)
        return True
    value[0] = 0
    return marker == 0xC0


cdef inline bint read_number(Cursor* cursor, double* value) noexcept nogil:
    """A float, or an integer as a float."""
    cdef uint8_t marker
    cdef uint64_t raw
    cdef uint32_t raw4
    cdef float single
    cdef int64_t number
    if cursor.at >= cursor.end:
        return False
    marker = <uint8_t>cursor.at[0]
    if marker == 0xCB:
        cursor.at += 1
        if not read_length(cursor, 8, &raw):
            return False
        memcpy(value, &raw, 8)
        return True
    if marker == 0xCA:
        cursor.at += 1
        if not read_length(cursor, 4, &raw):
            return False
        raw4 = <uint32_t>raw
        memcpy(&single, &raw4, 4)
        value[0] = single
        return True
    if marker == 0xC0:
        return False
    if marker == 0xCF:
        cursor.at += 1
        if not read_length(cursor, 8, &raw):
            return False
        value[0] = <double>raw
        return True
    if not read_signed(cursor, &number):
        return False
    value[0] = <double>number
    return True


cdef inline bint open_list(Cursor* cursor, uint8_t fixed, uint8_t wide, int each,
                           uint64_t* count) noexcept nogil:
    """The count of an array or map whose values may be there; nil has none."""
    cdef uint8_t marker
    if cursor.at >= cursor.end:
        return False
    marker = <uint8_t>cursor.at[0]
    cursor.at += 1
    if marker & 0xF0 == fixed:
        count[0] = marker & 0x0F
    elif marker == wide:
        if not read_length(cursor, 2, count):
            return False
    elif marker == wide + 1:
        if not read_length(cursor, 4, count):
            return False
    elif marker == 0xC0:
        count[0] = 0
    else:
        return False
    # Every value has a byte of its own.
    return count[0] * each <= <uint64_t>(cursor.end - cursor.at)


cdef inline bint open_array(Cursor* cursor, uint64_t* count) noexcept nogil:
    return open_list(cursor, 0x90, 0xDC, 1, count)


cdef inline bint open_map(Cursor* cursor, uint64_t* count) noexcept nogil:
    return open_list(cursor, 0x80, 0xDE, 2, count)


cdef bint skip(Cursor* cursor) noexcept nogil:
    """Pass over the next value."""
    cdef uint64_t missing = 1, size
    cdef uint8_t marker
    cdef int width
    while missing:
        if missing > <uint64_t>(cursor.end - cursor.at):
            return False
        missing -= 1
        marker = <uint8_t>cursor.at[0]
        cursor.at += 1
        size = 0
        if marker < 0x80 or marker >= 0xE0 or marker in (0xC0, 0xC2, 0xC3):
            pass
        elif marker < 0x90:
            missing += 2 * (marker & 0x0F)
        elif marker < 0xA0:
            missing += marker & 0x0F
        elif marker < 0xC0:
            size = marker & 0x1F
        elif marker == 0xC1:
            return False
        elif marker in (0xCA, 0xCE, 0xD2):
            size = 4
        elif marker in (0xCB, 0xCF, 0xD3):
            size = 8
        elif marker in (0xCC, 0xD0):
            size = 1
        elif marker in (0xCD, 0xD1):
            size = 2
        elif 0xD4 <= marker <= 0xD8:
            size = 1 + (1 << (marker - 0xD4))
        elif marker >= 0xDC:
            if not read_length(cursor, 4 if marker & 1 else 2, &size):
                return False
            missing += size * (2 if marker >= 0xDE else 1)
            size = 0
        else:
            # Strings, binary and extensions with a length in front.
            if marker >= 0xD9:
                width = 1 << (marker - 0xD9)
            elif marker >= 0xC7:
                width = 1 << (marker - 0xC7)
            else:
                width = 1 << (marker - 0xC4)
            if not read_length(cursor, width, &size):
                return False
            if 0xC7 <= marker <= 0xC9:
                size += 1
        if size > <uint64_t>(cursor.end - cursor.at):
            return False
        cursor.at += size
    return True


# The fields of a span; numbers of no meaning.
cdef enum Field:
    UNKNOWN
    SERVICE
    NAME
    RESOURCE
    TRACE_ID
    SPAN_ID
    PARENT_ID
    START
    DURATION
    ERROR
    META
    METRICS
    TYPE
    META_STRUCT
    SPAN_LINKS
    SPAN_EVENTS


cdef inline Field field_of(Text key) noexcept nogil:
    if key.size == 4:
        if memcmp(key.at, "name", 4) == 0:
            return NAME
        if memcmp(key.at, "meta", 4) == 0:
            return META
        if memcmp(key.at, "type", 4) == 0:
            return TYPE
    elif key.size == 5:
        if memcmp(key.at, "start", 5) == 0:
            return START
        if memcmp(key.at, "error", 5) == 0:
            return ERROR
    elif key.size == 7:
        if memcmp(key.at, "service", 7) == 0:
            return SERVICE
        if memcmp(key.at, "span_id", 7) == 0:
            return SPAN_ID
        if memcmp(key.at, "metrics", 7) == 0:
            return METRICS
    elif key.size == 8:
        if memcmp(key.at, "resource", 8) == 0:
            return RESOURCE
        if memcmp(key.at, "trace_id", 8) == 0:
            return TRACE_ID
        if memcmp(key.at, "duration", 8) == 0:
            return DURATION
    elif key.size == 9:
        if memcmp(key.at, "parent_id", 9) == 0:
            return PARENT_ID
    elif key.size == 10:
        if memcmp(key.at, "span_links", 10) == 0:
            return SPAN_LINKS
    elif key.size == 11:
        if memcmp(key.at, "meta_struct", 11) == 0:
            return META_STRUCT
        if memcmp(key.at, "span_events", 11) == 0:
            return SPAN_EVENTS
    return UNKNOWN


cdef inline bint is_empty(Field field, const char* value) noexcept nogil:
    """Whether the value of a rare field is nil, or an empty one of its type."""
    cdef uint8_t marker = <uint8_t>value[0]
    return marker == 0xC0 or marker == (0x80 if field == META_STRUCT else 0x90)


def read_trace(reader, findings):
    """The next trace of v0.4 as a Chunk, or None when it is not in order.

    Then nothing has changed, and the reader stands where it stood.
    """
    cdef Cursor cursor
    cdef Chunk chunk = open_chunk(reader, &cursor)
    cdef list rare = []
    cdef uint32_t index
    if chunk is None:
        return None
    for index in range(chunk.count):
        if not read_row(chunk, &cursor, index, rare):
            return None
    found = read_rare(chunk, rare) if rare else None
    if rare and found is None:
        return None
    # From here on the trace is ours.
    findings.begin_trace(chunk.count)
    findings.hold_tags(chunk.tags_read)
    if found is not None:
        findings.take_over(found)
    reader.offset = cursor.at - PyBytes_AS_STRING(chunk.body)
    return chunk


cdef bint set_cursor(reader, Cursor* cursor) except? False:
    cdef bytes body = reader.body
    cdef Py_ssize_t offset = reader.offset
    if not 0 <= offset <= PyBytes_GET_SIZE(body):
        return False
    cursor.at = PyBytes_AS_STRING(body) + offset
    cursor.end = PyBytes_AS_STRING(body) + PyBytes_GET_SIZE(body)
    return True


cdef Chunk open_chunk(reader, Cursor* cursor):
    """A chunk with as many empty rows as the next array has spans, or None."""
    cdef uint64_t count
    cdef uint32_t index
    cdef Chunk chunk
    if not set_cursor(reader, cursor):
        return None
    if not open_array(cursor, &count) or not 0 < count <= SPANS_MAX:
        return None
    chunk = Chunk.__new__(Chunk)
    chunk.body = reader.body
    chunk.rows = <Row*>PyMem_Malloc(count * sizeof(Row))
    if chunk.rows == NULL:
        raise MemoryError
    memset(chunk.rows, 0, count * sizeof(Row))
    chunk.count = <uint32_t>count
    chunk.root_index = chunk.count - 1
    for index in range(chunk.count):
        chunk.rows[index].service = chunk.rows[index].name = NO_TEXT
        chunk.rows[index].resource = chunk.rows[index].type = NO_TEXT
    grow(chunk, 32 * chunk.count if count < 64 else 2048)
    return chunk


def read_table(reader):
    """The table of texts in front of a payload of v0.5, or None when it is not in order."""
    cdef Cursor cursor
    cdef uint64_t count
    cdef uint32_t index
    cdef Table table
    if not set_cursor(reader, &cursor):
        return None
    if not open_array(&cursor, &count) or count > TAGS_MAX:
        return None
    table = Table.__new__(Table)
    table.texts = <Text*>PyMem_Malloc((count + 1) * sizeof(Text))
    if table.texts == NULL:
        raise MemoryError
    for index in range(<uint32_t>count):
        if is_nil(&cursor) or not read_text(&cursor, &table.texts[index]):
            return None
    table.body = reader.body
    table.count = <uint32_t>count
    reader.offset = cursor.at - PyBytes_AS_STRING(table.body)
    return table


cdef class Table:
    """The texts of one payload of v0.5, and the traces that point into it."""

    cdef bytes body
    cdef Text* texts
    cdef uint32_t count

    def __dealloc__(self):
        PyMem_Free(self.texts)

    def read_trace(self, reader, findings):
        """The next trace as a Chunk, or None when it is not in order, as `read_trace` does."""
        cdef Cursor cursor
        cdef Chunk chunk = open_chunk(reader, &cursor)
        cdef uint64_t text_bytes = 0
        cdef uint32_t index
        if chunk is None or reader.body is not self.body:
            return None
        for index in range(chunk.count):
            if not self.read_row(chunk, &cursor, &chunk.rows[index], &text_bytes):
                return None
        findings.begin_trace(chunk.count)
        findings.hold_tags(chunk.tags_read)
        findings.hold_text(text_bytes)
        reader.offset = cursor.at - PyBytes_AS_STRING(chunk.body)
        return chunk

    cdef bint look_up(self, Cursor* cursor, Text* text, uint64_t* text_bytes) noexcept:
        """The text the next value points at."""
        cdef uint64_t index
        if not read_unsigned(cursor, &index) or index >= self.count:
            return False
        text[0] = self.texts[index]
        text_bytes[0] += text.size
        return True

    cdef bint read_row(
        self, Chunk chunk, Cursor* cursor, Row* row, uint64_t* text_bytes
    ) except? False:
        cdef uint64_t values, tags
        cdef int64_t error
        cdef Text key, text
        cdef double number
        if is_nil(cursor) or not open_array(cursor, &values) or values < 12:
            return False
        if not (
            self.look_up(cursor, &row.service, text_bytes)
            and self.look_up(cursor, &row.name, text_bytes)
            and self.look_up(cursor, &row.resource, text_bytes)
            and read_unsigned(cursor, &row.trace_id)
            and read_unsigned(cursor, &row.span_id)
            and read_unsigned(cursor, &row.parent_id)
            and read_signed(cursor, &row.start)
            and read_signed(cursor, &row.duration)
            and row.duration >= 0
            and read_signed(cursor, &error)
            and error == <int32_t>error
            and open_map(cursor, &tags)
            and open_tags(chunk, &row.meta, tags)
        ):
            return False
        row.error = <int32_t>error
        while tags:
            tags -= 1
            if not self.look_up(cursor, &key, text_bytes):
                return False
            if not self.look_up(cursor, &text, text_bytes):
                return False
            put_text(chunk, &row.meta, key.at, key.size, text)
            note_text(row, text)
        if not open_map(cursor, &tags) or not open_tags(chunk, &row.metrics, tags):
            return False
        while tags:
            tags -= 1
            if not self.look_up(cursor, &key, text_bytes) or not read_number(cursor, &number):
                return False
            put_tag(chunk, &row.metrics, key.at, key.size).value.number = number
        if not self.look_up(cursor, &row.type, text_bytes):
            return False
        while values > 12:
            values -= 1
            if not skip(cursor):
                return False
        return True


# ---------------------------------------------------------------- writing

cdef inline uint32_t varint_size(uint64_t value) noexcept nogil:
    cdef uint32_t size = 1
    while value > 0x7F:
        value >>= 7
        size += 1
    return size


cdef inline char* write_varint(char* at, uint64_t value) noexcept nogil:
    while value > 0x7F:
        at[0] = <char>(value & 0x7F | 0x80)
        at += 1
        value >>= 7
    at[0] = <char>value
    return at + 1


cdef inline char* write_bytes(char* at, const char* text, uint32_t size) noexcept nogil:
    memcpy(at, text, size)
    return at + size


cdef inline uint64_t text_field_size(Text text) noexcept nogil:
    """Of a field with a number below 16; nothing for empty text, as proto3 has it."""
    return 1 + varint_size(text.size) + text.size if text.size else 0


cdef inline char* write_text_field(char* at, uint8_t number, Text text) noexcept nogil:
    if not text.size:
        return at
    at[0] = <char>(number << 3 | 2)
    at = write_varint(at + 1, text.size)
    return write_bytes(at, text.at, text.size)


cdef inline uint32_t integer_field_size(uint64_t value) noexcept nogil:
    return 1 + varint_size(value) if value else 0


cdef inline char* write_integer_field(char* at, uint8_t number, uint64_t value) noexcept nogil:
    if not value:
        return at
    at[0] = <char>(number << 3)
    return write_varint(at + 1, value)


cdef inline uint64_t meta_entry_size(Tag* tag) noexcept nogil:
    return (2 + varint_size(tag.key_size) + tag.key_size
            + varint_size(tag.text_size) + <uint64_t>tag.text_size)


cdef inline uint64_t metric_entry_size(Tag* tag) noexcept nogil:
    return 10 + varint_size(tag.key_size) + <uint64_t>tag.key_size


# ---------------------------------------------------------------- rows and tags

cdef uint32_t checked(Chunk chunk, Py_ssize_t index) except? 0xFFFFFFFF:
    if not 0 <= index < chunk.count:
        raise IndexError(index)
    return <uint32_t>index


cdef bint read_row(Chunk chunk, Cursor* cursor, uint32_t index, list rare) except? False:
    cdef Row* row = &chunk.rows[index]
    cdef uint64_t fields, number
    cdef int64_t integer
    cdef Text key
    cdef Field field
    cdef const char* value
    cdef uint32_t first_rare = <uint32_t>len(rare)
    if is_nil(cursor) or not open_map(cursor, &fields):
        return False
    while fields:
        fields -= 1
        if is_nil(cursor) or not read_text(cursor, &key):
            return False
        field = field_of(key)
        if field == SERVICE:
            if not read_text(cursor, &row.service):
                return False
        elif field == NAME:
            if not read_text(cursor, &row.name):
                return False
        elif field == RESOURCE:
            if not read_text(cursor, &row.resource):
                return False
        elif field == TYPE:
            if not read_text(cursor, &row.type):
                return False
        elif field == TRACE_ID:
            if not read_unsigned(cursor, &row.trace_id):
                return False
        elif field == SPAN_ID:
            if not read_unsigned(cursor, &row.span_id):
                return False
        elif field == PARENT_ID:
            if not read_unsigned(cursor, &row.parent_id):
                return False
        elif field == START:
            if not read_signed(cursor, &row.start):
                return False
        elif field == DURATION:
            if not read_signed(cursor, &row.duration) or row.duration < 0:
                return False
        elif field == ERROR:
            if not read_signed(cursor, &integer):
                return False
            if integer != <int32_t>integer:
                return False
            row.error = <int32_t>integer
        elif field == META:
            if not read_meta(chunk, cursor, row):
                return False
        elif field == METRICS:
            if not read_metrics(chunk, cursor, row):
                return False
        else:
            value = cursor.at
            if not skip(cursor):
                return False
            # What is empty says nothing; but of a field that comes twice the last counts.
            if field != UNKNOWN and (
                not is_empty(field, value) or <uint32_t>len(rare) > first_rare
            ):
                rare.append((index, field, value - PyBytes_AS_STRING(chunk.body)))
    return True


cdef bint read_meta(Chunk chunk, Cursor* cursor, Row* row) except? False:
    cdef uint64_t count
    cdef Text key, text
    cdef Tag* tag
    if not open_map(cursor, &count):
        return False
    if not open_tags(chunk, &row.meta, count):
        return False
    row.may_have_card = 0
    while count:
        count -= 1
        if is_nil(cursor) or not read_text(cursor, &key):
            return False
        if is_nil(cursor) or not read_text(cursor, &text):
            return False
        tag = put_tag(chunk, &row.meta, key.at, key.size)
        tag.value.text = text.at
        tag.text_size = text.size
        if text.size > chunk.longest_text:
            chunk.longest_text = text.size
        note_text(row, text)
    return True


cdef bint read_metrics(Chunk chunk, Cursor* cursor, Row* row) except? False:
    cdef uint64_t count
    cdef Text key
    cdef double number
    cdef Tag* tag
    if not open_map(cursor, &count):
        return False
    if not open_tags(chunk, &row.metrics, count):
        return False
    while count:
        count -= 1
        if is_nil(cursor) or not read_text(cursor, &key):
            return False
        if not read_number(cursor, &number):
            return False
        tag = put_tag(chunk, &row.metrics, key.at, key.size)
        tag.value.number = number
    return True


cdef bint open_tags(Chunk chunk, Tags* tags, uint64_t count) except? False:
    """Make room for so many tags behind the last ones."""
    if count > TAGS_MAX - chunk.tags_read:
        return False
    chunk.tags_read += <uint32_t>count
    memset(tags, 0, sizeof(Tags))
    tags.first = chunk.tag_count
    tags.room = <uint32_t>count + TAGS_TO_COME if count else 0
    chunk.tag_count += tags.room
    grow(chunk, chunk.tag_count)
    return True


cdef int grow(Chunk chunk, uint32_t room) except -1:
    cdef Tag* tag_list
    if room <= chunk.tag_room:
        return 0
    if room < 2 * chunk.tag_room:
        room = 2 * chunk.tag_room
    tag_list = <Tag*>PyMem_Realloc(chunk.tag_list, room * sizeof(Tag))
    if tag_list == NULL:
        raise MemoryError
    chunk.tag_list = tag_list
    chunk.tag_room = room
    return 0


cdef object read_rare(Chunk chunk, list places):
    """Have the plain decoder read links, events and structures.

    Returns:
        What it found; None when something is not in order.
    """
    from mini_agent.traces.decode import SPAN_FIELDS
    from mini_agent.wire.msgpack import Reader

    cdef uint32_t row
    cdef dict holders = {}
    names = {META_STRUCT: b"meta_struct", SPAN_LINKS: b"span_links", SPAN_EVENTS: b"span_events"}
    found = lenient.Findings()
    reader = Reader(chunk.body)
    for row, field, offset in places:
        if row not in holders:
            holders[row] = plain.Span()
        reader.offset = offset
        try:
            SPAN_FIELDS[names[field]](reader, holders[row], found)
        except WrongType:
            return None
    if found.has_changes():
        # Changes are counted by span, which the plain decoder does.
        return None
    chunk.rare = []
    for row, holder in holders.items():
        chunk.rare.append(holder)
        chunk.rows[row].rare = <uint32_t>len(chunk.rare)
    return found


cdef object rare_of(Chunk chunk, Row* row):
    """The plain span that has the rare fields, made if there is none."""
    if row.rare == 0:
        if chunk.rare is None:
            chunk.rare = []
        chunk.rare.append(plain.Span())
        row.rare = <uint32_t>len(chunk.rare)
    return chunk.rare[row.rare - 1]


cdef Tag* find_tag(Chunk chunk, Tags* tags, const char* key, Py_ssize_t size) noexcept:
    """The tag of a key, or NULL."""
    cdef uint32_t index
    cdef uint32_t key_size = <uint32_t>size
    cdef Tag* tag
    if not tags.bits >> (key_hash(key, key_size) >> 58) & 1:
        return NULL
    for index in range(tags.first, tags.first + tags.count):
        tag = &chunk.tag_list[index]
        if tag.key_size == key_size and memcmp(tag.key, key, key_size) == 0:
            return tag
    return NULL


cdef Tag* append_tag(Chunk chunk, Tags* tags) except NULL:
    """One more tag, to be filled; those of the span may move."""
    cdef uint32_t room
    if tags.count == tags.room:
        room = 2 * tags.room + TAGS_TO_COME
        if tags.first + tags.room == chunk.tag_count:
            # The last ones: they grow where they are.
            grow(chunk, tags.first + room)
        else:
            grow(chunk, chunk.tag_count + room)
            memcpy(&chunk.tag_list[chunk.tag_count], &chunk.tag_list[tags.first],
                   tags.count * sizeof(Tag))
            tags.first = chunk.tag_count
        tags.room = room
        chunk.tag_count = tags.first + room
    tags.count += 1
    return &chunk.tag_list[tags.first + tags.count - 1]


cdef Tag* put_tag(Chunk chunk, Tags* tags, const char* key, Py_ssize_t size) except NULL:
    """The tag of a key, made if there is none; its value is to be filled."""
    cdef uint32_t key_size = <uint32_t>size
    cdef uint64_t hash = key_hash(key, key_size)
    cdef Tag* tag
    if tags.bits >> (hash >> 58) & 1:
        tag = find_tag(chunk, tags, key, size)
        if tag != NULL:
            return tag
    tag = append_tag(chunk, tags)
    tag.key = key
    tag.key_size = key_size
    tag.bit = <uint8_t>(hash >> 58)
    tag.id = known_id(key, key_size, hash)
    tags.bits |= <uint64_t>1 << tag.bit
    tags.known[tag.id >> 6] |= <uint64_t>1 << (tag.id & 63)
    if key_size > chunk.longest_key:
        chunk.longest_key = key_size
    return tag


cdef int put_text(Chunk chunk, Tags* tags, const char* key, Py_ssize_t size, Text text) except -1:
    cdef Tag* tag = put_tag(chunk, tags, key, size)
    tag.value.text = text.at
    tag.text_size = text.size
    if text.size > chunk.longest_text:
        chunk.longest_text = text.size
    return 0


cdef inline void note_text(Row* row, Text text) noexcept:
    """A rule has set a tag of the row to this text."""
    if text.size >= CARD_SIZE_MIN and text.at[0] <= c"9":
        row.may_have_card |= may_be_card(text.at, text.size)


cdef int remove_tag(Chunk chunk, Tags* tags, const char* key, Py_ssize_t size) except -1:
    cdef Tag* tag = find_tag(chunk, tags, key, size)
    cdef uint32_t index
    if tag == NULL:
        return 0
    tags.count -= 1
    for index in range(<uint32_t>(tag - chunk.tag_list), tags.first + tags.count):
        chunk.tag_list[index] = chunk.tag_list[index + 1]
    # What is left says which bits stay.
    tags.bits = 0
    tags.known[0] = tags.known[1] = 0
    for index in range(tags.first, tags.first + tags.count):
        tag = &chunk.tag_list[index]
        tags.bits |= <uint64_t>1 << tag.bit
        tags.known[tag.id >> 6] |= <uint64_t>1 << (tag.id & 63)
    return 0


cdef int copy_tags(Chunk chunk, Tags* tags, Chunk other) except -1:
    cdef uint32_t first = chunk.tag_count
    grow(chunk, chunk.tag_count + tags.count)
    if tags.count:
        memcpy(&chunk.tag_list[first], &other.tag_list[tags.first], tags.count * sizeof(Tag))
    tags.first = first
    tags.room = tags.count
    chunk.tag_count += tags.count
    return 0


cdef Text held_text(Chunk chunk, Answer* answer, Text asked):
    """The text of an answer, held from now on; what was asked when that is the answer."""
    if answer.holder == NULL:
        return asked
    chunk.held.append(<object>answer.holder)
    return answer.text


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


cdef int obfuscate_url(Chunk chunk, Row* row, object rule) except -1:
    cdef Tag* tag = known_tag(chunk, &row.meta, HTTP_URL)
    cdef Text url
    cdef bytes changed
    if tag == NULL or tag.text_size == 0:
        return 0
    url.at, url.size = tag.value.text, tag.text_size
    if not is_plain_url(url):
        changed = rule(string_of(url)).encode("utf-8", "replace")
        chunk.held.append(changed)
        url = text_of(changed)
        tag.value.text, tag.text_size = url.at, url.size
        if url.size > chunk.longest_text:
            chunk.longest_text = url.size
    return 0


cdef uint64_t span_size(Chunk chunk, Row* row, list rare) except? 0:
    cdef uint32_t index
    cdef uint64_t entry, size
    size = (
        text_field_size(row.service) + text_field_size(row.name)
        + text_field_size(row.resource) + text_field_size(row.type)
        + integer_field_size(row.trace_id) + integer_field_size(row.span_id)
        + integer_field_size(row.parent_id) + integer_field_size(<uint64_t>row.start)
        + integer_field_size(<uint64_t>row.duration)
        + integer_field_size(<uint64_t><int64_t>row.error)
    )
    for index in range(row.meta.first, row.meta.first + row.meta.count):
        entry = meta_entry_size(&chunk.tag_list[index])
        size += 1 + varint_size(entry) + entry
    for index in range(row.metrics.first, row.metrics.first + row.metrics.count):
        entry = metric_entry_size(&chunk.tag_list[index])
        size += 1 + varint_size(entry) + entry
    if row.rare:
        size += len(<bytes>rare[row.rare - 1])
    return size


cdef char* write_span(Chunk chunk, char* at, Row* row, list rare) except NULL:
    cdef uint32_t index
    cdef Tag* tag
    cdef bytes fields
    at = write_text_field(at, 1, row.service)
    at = write_text_field(at, 2, row.name)
    at = write_text_field(at, 3, row.resource)
    at = write_integer_field(at, 4, row.trace_id)
    at = write_integer_field(at, 5, row.span_id)
    at = write_integer_field(at, 6, row.parent_id)
    at = write_integer_field(at, 7, <uint64_t>row.start)
    at = write_integer_field(at, 8, <uint64_t>row.duration)
    at = write_integer_field(at, 9, <uint64_t><int64_t>row.error)
    for index in range(row.meta.first, row.meta.first + row.meta.count):
        tag = &chunk.tag_list[index]
        at[0] = 10 << 3 | 2
        at = write_varint(at + 1, meta_entry_size(tag))
        at[0] = 1 << 3 | 2
        at = write_varint(at + 1, tag.key_size)
        at = write_bytes(at, tag.key, tag.key_size)
        at[0] = 2 << 3 | 2
        at = write_varint(at + 1, tag.text_size)
        at = write_bytes(at, tag.value.text, tag.text_size)
    for index in range(row.metrics.first, row.metrics.first + row.metrics.count):
        tag = &chunk.tag_list[index]
        at[0] = 11 << 3 | 2
        at = write_varint(at + 1, metric_entry_size(tag))
        at[0] = 1 << 3 | 2
        at = write_varint(at + 1, tag.key_size)
        at = write_bytes(at, tag.key, tag.key_size)
        at[0] = 2 << 3 | 1
        at = write_bytes(at + 1, <const char*>&tag.value.number, 8)
    at = write_text_field(at, 12, row.type)
    if row.rare:
        fields = rare[row.rare - 1]
        at = write_bytes(at, PyBytes_AS_STRING(fields), <uint32_t>PyBytes_GET_SIZE(fields))
    return at


# ---------------------------------------------------------------- the chunk

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

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter(self.spans)

    @property
    def spans(self):
        """A view of each span."""
        cdef uint32_t index
        return [view(self, index) for index in range(self.count)]

    @property
    def root(self):
        """The span that stands for the whole chunk."""
        return view(self, checked(self, self.root_index))

    # Reading

    # Tags

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
        selected.count = position
        selected.root_index = position - 1
        return selected

    def settle(self, NormalTexts texts, findings):
        """Normalize the whole chunk if it is an ordinary one; false when rules must do it."""
        cdef uint32_t index
        cdef Row* row
        cdef Tag* tag
        cdef Answer* answer
        cdef Text text
        cdef uint64_t trace_id = self.rows[0].trace_id
        for index in range(self.count):
            row = &self.rows[index]
            if row.trace_id != trace_id or trace_id == 0 or row.span_id == 0:
                return False
            if row.parent_id == row.span_id and row.span_id == trace_id:
                return False
            if row.start < texts.start_ns_min or row.start > INT64_MAX - row.duration:
                return False
            if row.resource.size == 0 or row.type.size > texts.type_bytes_max:
                return False
        for index in range(self.count):
            row = &self.rows[index]
            answer = texts.service.find(row.service, NO_TEXT)
            if answer.reasons != NULL:
                row.service = held_text(self, answer, row.service)
                findings.mend(<object>answer.reasons)
            answer = texts.name.find(row.name, NO_TEXT)
            if answer.reasons != NULL:
                row.name = held_text(self, answer, row.name)
                findings.mend(<object>answer.reasons)
            tag = known_tag(self, &row.meta, ENV)
            if tag != NULL and tag.text_size:
                text.at, text.size = tag.value.text, tag.text_size
                answer = texts.env.find(text, NO_TEXT)
                if answer.reasons != NULL:
                    text = held_text(self, answer, text)
                    tag.value.text, tag.text_size = text.at, text.size
                    findings.mend(<object>answer.reasons)
            tag = known_tag(self, &row.meta, STATUS_CODE)
            if tag != NULL:
                text.at, text.size = tag.value.text, tag.text_size
                answer = texts.status_code.find(text, NO_TEXT)
                if answer.text.size == 0:
                    findings.mend(<object>answer.reasons)
                    remove_tag(self, &row.meta, tag.key, tag.key_size)
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
        cdef SpanIndex spans = SpanIndex(self)
        cdef Py_ssize_t index
        for index in range(<Py_ssize_t>self.count - 1, -1, -1):
            if spans.find(self.rows[index].parent_id) < 0:
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
        for index in range(self.count):
            if find_tag(self, &self.rows[index].metrics, at, size) != NULL:
                put_tag(self, &self.rows[index].metrics, mark_at, mark_size).value.number = 1.0

    def mark_entries(self, str mark):
        """Set the numeric tag `mark` to 1 on spans whose service is not that of their parent."""
        cdef Py_ssize_t size
        cdef const char* at = PyUnicode_AsUTF8AndSize(mark, &size)
        cdef SpanIndex spans = SpanIndex(self)
        cdef uint32_t index
        cdef Py_ssize_t parent
        cdef Row* row
        self.held.append(mark)
        for index in range(self.count):
            row = &self.rows[index]
            parent = spans.find(row.parent_id) if row.parent_id else -1
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
            for index in range(self.count):
                row = &self.rows[index]
                if not name_text.size or not same(row.name, name_text):
                    put_text(self, &row.meta, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), text)
                    note_text(row, text)

    def spans_to_obfuscate(self, SettledTexts settled):
        """The spans that the rules must look at; what is known of the others is done."""
        cdef uint32_t index
        cdef Row* row
        cdef Care care
        cdef list left = []
        if settled.look_at_all:
            return self.spans
        for index in range(self.count):
            row = &self.rows[index]
            care = settled.care_of(row.type)
            if settled.cards and (row.may_have_card or row.rare):
                care = LOOK
            if care == QUERY:
                if row.resource.size:
                    obfuscate_queries(self, row, settled.queries)
                else:
                    care = LOOK
            elif care == URL:
                obfuscate_url(self, row, settled.url)
            elif care == COMMAND:
                row.resource = held_text(
                    self, settled.commands.find(row.resource, NO_TEXT), row.resource
                )
            if care == LOOK:
                left.append(view(self, index))
        return left

    def has_longer_texts(self, uint32_t resource_bytes_max, uint32_t key_bytes_max,
                         uint32_t value_bytes_max):
        """Whether any span may have a resource, a tag's name or a tag's text of more bytes."""
        cdef uint32_t index
        if self.longest_key > key_bytes_max or self.longest_text > value_bytes_max:
            return True
        for index in range(self.count):
            if self.rows[index].resource.size > resource_bytes_max:
                return True
        return False

    # Writing

    def encode(self, bytes head, bytes tail):
        """The chunk as a field of its payload, with what stands before and behind the spans."""
        cdef uint64_t* sizes = <uint64_t*>PyMem_Malloc(self.count * sizeof(uint64_t))
        cdef uint64_t message = PyBytes_GET_SIZE(head) + PyBytes_GET_SIZE(tail)
        cdef uint32_t index
        cdef list rare = None
        cdef bytes encoded
        cdef char* at
        if sizes == NULL:
            raise MemoryError
        try:
            if self.rare:
                from mini_agent.traces.encode import encode_rare

                rare = [encode_rare(each) for each in self.rare]
            for index in range(self.count):
                sizes[index] = span_size(self, &self.rows[index], rare)
                message += 1 + varint_size(sizes[index]) + sizes[index]
            encoded = PyBytes_FromStringAndSize(NULL, 1 + varint_size(message) + message)
            at = PyBytes_AS_STRING(encoded)
            at[0] = 6 << 3 | 2
            at = write_varint(at + 1, message)
            at = write_bytes(at, PyBytes_AS_STRING(head), <uint32_t>PyBytes_GET_SIZE(head))
            for index in range(self.count):
                at[0] = 3 << 3 | 2
                at = write_varint(at + 1, sizes[index])
                at = write_span(self, at, &self.rows[index], rare)
            at = write_bytes(at, PyBytes_AS_STRING(tail), <uint32_t>PyBytes_GET_SIZE(tail))
            assert at == PyBytes_AS_STRING(encoded) + PyBytes_GET_SIZE(encoded)
        finally:
            PyMem_Free(sizes)
        return encoded


# What `first_texts` answered last: the keys, the texts as bytes, the answer.
cdef tuple last_keys = None
cdef list last_texts = []
cdef tuple last_answer = ()


cdef Text first_text(Chunk chunk, const char* key, Py_ssize_t size):
    cdef uint32_t index
    cdef Row* root = &chunk.rows[checked(chunk, chunk.root_index)]
    cdef Tag* tag = find_tag(chunk, &root.meta, key, size)
    cdef Text text
    for index in range(chunk.count + 1):
        if tag != NULL and tag.text_size and (
            index == 0 or chunk.rows[index - 1].span_id != root.span_id
        ):
            text.at, text.size = tag.value.text, tag.text_size
            return text
        if index < chunk.count:
            tag = find_tag(chunk, &chunk.rows[index].meta, key, size)
    return NO_TEXT


cdef class SpanIndex:
    """The rows of a chunk by the id of their span; of one that comes twice the last."""

    cdef Chunk chunk
    # Numbers of rows from 1.
    cdef uint32_t* slots
    cdef uint64_t mask

    def __cinit__(self, Chunk chunk):
        cdef uint32_t index
        cdef uint64_t slot
        self.chunk = chunk
        self.mask = 16
        while self.mask < 2 * <uint64_t>chunk.count:
            self.mask *= 2
        self.slots = <uint32_t*>PyMem_Malloc(self.mask * sizeof(uint32_t))
        if self.slots == NULL:
            raise MemoryError
        memset(self.slots, 0, self.mask * sizeof(uint32_t))
        self.mask -= 1
        for index in range(chunk.count):
            slot = self.slot_of(chunk.rows[index].span_id)
            self.slots[slot] = index + 1

    def __dealloc__(self):
        PyMem_Free(self.slots)

    cdef uint64_t slot_of(self, uint64_t span_id) noexcept:
        cdef uint64_t slot = (span_id ^ SEED) * <uint64_t>0x9E3779B97F4A7C15
        slot = (slot ^ (slot >> 32)) & self.mask
        while self.slots[slot] and self.chunk.rows[self.slots[slot] - 1].span_id != span_id:
            slot = (slot + 1) & self.mask
        return slot

    cdef Py_ssize_t find(self, uint64_t span_id) noexcept:
        """The index of a span's row, or -1."""
        return <Py_ssize_t>self.slots[self.slot_of(span_id)] - 1


# ---------------------------------------------------------------- the view of one span

@cython.no_gc
@cython.freelist(64)
cdef class Span:
    """One row of a chunk, with the face of span.Span."""

    cdef Chunk chunk
    cdef uint32_t index

    cdef Row* row(self) noexcept:
        return &self.chunk.rows[self.index]

    cdef Text hold(self, str value):
        cdef bytes held = value.encode("utf-8", "replace")
        self.chunk.held.append(held)
        return text_of(held)

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
    def raw_service(self):
        return bytes_of(self.row().service)

    @property
    def raw_name(self):
        return bytes_of(self.row().name)

    @property
    def raw_resource(self):
        return bytes_of(self.row().resource)

    @property
    def raw_type(self):
        return bytes_of(self.row().type)

    @property
    def raw_meta(self):
        """The tags to look at; changing this changes no span."""
        cdef Tags* tags = &self.row().meta
        cdef Tag* tag
        cdef uint32_t index
        cdef dict meta = {}
        for index in range(tags.first, tags.first + tags.count):
            tag = &self.chunk.tag_list[index]
            key = PyBytes_FromStringAndSize(tag.key, tag.key_size)
            meta[key] = PyBytes_FromStringAndSize(tag.value.text, tag.text_size)
        return meta

    @property
    def raw_metrics(self):
        """The numeric tags to look at; changing this changes no span."""
        cdef Tags* tags = &self.row().metrics
        cdef Tag* tag
        cdef uint32_t index
        cdef dict metrics = {}
        for index in range(tags.first, tags.first + tags.count):
            tag = &self.chunk.tag_list[index]
            metrics[PyBytes_FromStringAndSize(tag.key, tag.key_size)] = tag.value.number
        return metrics

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
