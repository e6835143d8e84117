# Part of _express.pyx: rows and their tags.

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
            if field != UNKNOWN and cursor.at - value > RARE_BYTES_MAX:
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
    if count > TAGS_EACH_MAX or count > TAGS_MAX - chunk.tags_read:
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


cdef bint read_rare(Chunk chunk, list places) except? False:
    """Have the plain decoder read links, events and structures; false when they are not in order."""
    from mini_agent.traces.decode import SPAN_FIELDS
    from mini_agent.wire.msgpack import Reader

    cdef uint32_t row
    cdef dict holders = {}
    names = {META_STRUCT: b"meta_struct", SPAN_LINKS: b"span_links", SPAN_EVENTS: b"span_events"}
    if chunk.found is None:
        chunk.found = lenient.Findings()
    reader = Reader(chunk.body)
    for row, field, offset in places:
        if row not in holders:
            holders[row] = plain.Span()
        reader.offset = offset
        try:
            for _ in SPAN_FIELDS[names[field]](reader, holders[row], chunk.found) or ():
                pass
        except WrongType:
            return False
    if chunk.found.has_changes():
        # Changes are counted by span, which the plain decoder does.
        return False
    if chunk.rare is None:
        chunk.rare = []
    for row, holder in holders.items():
        chunk.rare.append(holder)
        chunk.rows[row].rare = <uint32_t>len(chunk.rare)
    return True


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
