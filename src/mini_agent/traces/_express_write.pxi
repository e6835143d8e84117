# Part of _express.pyx: rows into protobuf. The sizes are known before anything is written.

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


cdef uint64_t span_size(Chunk chunk, Row* row, dict rare) except? 0:
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
        size += len(<bytes>rare[row.rare])
    return size


cdef char* write_span(Chunk chunk, char* at, Row* row, dict rare) except NULL:
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
        fields = rare[row.rare]
        at = write_bytes(at, PyBytes_AS_STRING(fields), <uint32_t>PyBytes_GET_SIZE(fields))
    return at


cdef bytes written(Chunk chunk, bytes head, bytes tail):
    """The rows of the window, each as a field; with a head and a tail, as a field of a payload."""
    cdef uint64_t* sizes = <uint64_t*>PyMem_Malloc((chunk.end - chunk.first) * sizeof(uint64_t))
    cdef uint64_t message = 0, frame = 0
    cdef uint32_t index
    cdef Row* row
    cdef dict rare = None
    cdef bytes encoded
    cdef char* at
    if sizes == NULL:
        raise MemoryError
    try:
        if chunk.rare:
            rare = encoded_rare(chunk)
        for index in range(chunk.first, chunk.end):
            sizes[index - chunk.first] = span_size(chunk, &chunk.rows[index], rare)
            message += 1 + varint_size(sizes[index - chunk.first]) + sizes[index - chunk.first]
        if head is not None:
            message += PyBytes_GET_SIZE(head) + PyBytes_GET_SIZE(tail)
            frame = 1 + varint_size(message)
        encoded = PyBytes_FromStringAndSize(NULL, frame + message)
        at = PyBytes_AS_STRING(encoded)
        if head is not None:
            at[0] = 6 << 3 | 2
            at = write_varint(at + 1, message)
            at = write_bytes(at, PyBytes_AS_STRING(head), <uint32_t>PyBytes_GET_SIZE(head))
        for index in range(chunk.first, chunk.end):
            at[0] = 3 << 3 | 2
            at = write_varint(at + 1, sizes[index - chunk.first])
            at = write_span(chunk, at, &chunk.rows[index], rare)
        if tail is not None:
            at = write_bytes(at, PyBytes_AS_STRING(tail), <uint32_t>PyBytes_GET_SIZE(tail))
        assert at == PyBytes_AS_STRING(encoded) + PyBytes_GET_SIZE(encoded)
    finally:
        PyMem_Free(sizes)
    return encoded


cdef dict encoded_rare(Chunk chunk):
    """The rare fields of the window's rows, by `Row.rare`."""
    from mini_agent.traces.encode import encode_rare

    cdef dict encoded = {}
    cdef uint32_t index, number
    for index in range(chunk.first, chunk.end):
        number = chunk.rows[index].rare
        if number:
            encoded[number] = encode_rare(chunk.rare[number - 1])
    return encoded
