# What other compiled modules see of a chunk; the design stands in _express.pyx.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

# A piece of UTF-8 in the body, or in something that the chunk holds.
cdef struct Text:
    const char* at
    uint32_t size

cdef union Value:
    const char* text
    double number

# One entry of `meta` or `metrics`.
cdef struct Tag:
    const char* key
    Value value
    uint32_t key_size
    uint32_t text_size
    # Which of the keys that somebody asks for by name, 0 for any other; see `known`.
    uint8_t id
    # Of 64, by the key: for Tags.bits.
    uint8_t bit

# One span's `meta` or `metrics`: tags[first : first + count] of its chunk, of which each key is
# there once.
cdef struct Tags:
    uint32_t first
    uint32_t count
    uint32_t room
    # The bits of all keys: a key whose bit is missing is not there.
    uint64_t bits
    # The ids of all known keys, 64 a word.
    uint64_t known[2]

cdef struct Row:
    uint64_t trace_id
    uint64_t span_id
    uint64_t parent_id
    int64_t start
    int64_t duration
    int32_t error
    # Some text may be a card number.
    uint32_t may_have_card
    Text service
    Text name
    Text resource
    Text type
    Tags meta
    Tags metrics
    # From 1: in Chunk.rare, where a plain Span has the links, events and structures; 0 for none.
    uint32_t rare

cdef class Chunk:
    cdef bytes body
    cdef Row* rows
    cdef uint32_t count
    cdef Tag* tag_list
    cdef uint32_t tag_count
    cdef uint32_t tag_room
    # What the rules for single spans see: rows[first : end].
    cdef uint32_t first
    cdef uint32_t end
    # Numbers of rows, from 1, by the id of their span; made when somebody asks for a span.
    cdef uint32_t* slots
    cdef uint64_t slot_mask
    # As the body has them, without room for more.
    cdef uint32_t tags_read
    # Of a trace that is being read: how many rows to come, where they stand in the body, the
    # texts they point into if it is one of v0.5, the bytes of those that were mentioned, and the
    # Findings of links, events and structures.
    cdef readonly uint32_t unread
    cdef Py_ssize_t offset
    cdef object table
    cdef uint64_t text_bytes
    cdef object found
    # No key and no text of a tag is longer.
    cdef uint32_t longest_key
    cdef uint32_t longest_text
    # Objects that texts point into.
    cdef list held
    cdef list rare
    cdef public Py_ssize_t root_index
    cdef public object priority
    cdef public str origin
    cdef public dict tags
    cdef public bint is_dropped

# The number of a key that somebody asks for by name: 1 to 127, or 0.
cdef int known(bytes key) except -1

# The tag of a known key, or NULL.
cdef inline Tag* known_tag(Chunk chunk, Tags* tags, int id) noexcept:
    cdef uint32_t index
    if not tags.known[id >> 6] >> (id & 63) & 1:
        return NULL
    for index in range(tags.first, tags.first + tags.count):
        if chunk.tag_list[index].id == id:
            return &chunk.tag_list[index]
    return NULL
