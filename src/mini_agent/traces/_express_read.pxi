# Part of _express.pyx: MessagePack into rows. Readers answer false for what is not in order.

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


# How many rows and tags are read at a time, a millisecond's work; and once some of them have links,
# events or structures, how many bytes: the plain decoder reads those, some hundred times slower.
cdef enum:
    ROWS_A_STEP = 1024
    TAGS_A_STEP = 10000
    RARE_BYTES_A_STEP = 16384


def read_trace(reader, findings):
    """The next trace of v0.4 as a Chunk, or None when it is not in order.

    Then nothing has changed, and the reader stands where it stood; so it does until the last row
    of a long trace was read by `read_on`.
    """
    cdef Cursor cursor
    cdef Chunk chunk = open_chunk(reader, &cursor)
    if chunk is None or not read_rows(chunk, &cursor, reader, findings):
        return None
    return chunk


cdef bint read_rows(Chunk chunk, Cursor* cursor, reader, findings) except? False:
    """Read the next rows of a step, and tell of the trace with the last one."""
    cdef uint32_t index = chunk.count - chunk.unread, left = ROWS_A_STEP
    cdef uint32_t tags_end = chunk.tags_read + TAGS_A_STEP
    cdef const char* rare_end = cursor.at + min(RARE_BYTES_A_STEP, cursor.end - cursor.at)
    cdef list rare = []
    while chunk.unread and left and chunk.tags_read < tags_end:
        if rare and cursor.at >= rare_end:
            break
        if chunk.table is not None:
            if not (<Table>chunk.table).read_row(chunk, cursor, &chunk.rows[index]):
                return False
        elif not read_row(chunk, cursor, index, rare):
            return False
        index += 1
        left -= 1
        chunk.unread -= 1
    if rare and not read_rare(chunk, rare):
        return False
    chunk.offset = cursor.at - PyBytes_AS_STRING(chunk.body)
    if chunk.unread == 0:
        # From here on the trace is ours.
        findings.take_trace(chunk.count, chunk.tags_read, chunk.text_bytes)
        if chunk.found is not None:
            findings.take_over(chunk.found)
        reader.offset = chunk.offset
    return True


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
    chunk.count = chunk.end = chunk.unread = <uint32_t>count
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
        if chunk is None or reader.body is not self.body:
            return None
        chunk.table = self
        return chunk if read_rows(chunk, &cursor, reader, findings) else None

    cdef bint look_up(self, Cursor* cursor, Text* text, uint64_t* text_bytes) noexcept:
        """The text the next value points at."""
        cdef uint64_t index
        if not read_unsigned(cursor, &index) or index >= self.count:
            return False
        text[0] = self.texts[index]
        text_bytes[0] += text.size
        return True

    cdef bint read_row(self, Chunk chunk, Cursor* cursor, Row* row) except? False:
        cdef uint64_t* text_bytes = &chunk.text_bytes
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
