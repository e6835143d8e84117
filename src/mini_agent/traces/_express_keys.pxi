# Part of _express.pyx: keys that somebody asks for by name, and pieces of text.

# Ids are below 128, two words of bits. Those of peer tags stand together and in their order.
KNOWN_KEYS = (
    *sorted(name.encode() for name in info.PEER_TAGS),
    b"env", b"version", b"_dd.hostname", b"runtime-id",
    b"_dd.origin", b"http.status_code",
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
cdef int DB_TYPE = known(b"db.type")
cdef int DB_STATEMENT = known(b"db.statement")
cdef int DB_QUERY_TEXT = known(b"db.query.text")


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
