# Part of _express.pyx: what the rules made of texts, remembered.

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


# Most chunks are mended for one reason or two: further ones are told of at once.
cdef enum:
    MENDED_MAX = 4


cdef class Mended:
    """Counts why spans of one chunk were mended, to tell of it once."""

    cdef int kinds
    cdef uint32_t counts[MENDED_MAX]
    cdef list reasons

    def __cinit__(self):
        self.reasons = []

    cdef int add(self, Answer* answer) except -1:
        cdef int kind
        reasons = <object>answer.reasons
        for kind in range(self.kinds):
            if self.reasons[kind] is reasons:
                self.counts[kind] += 1
                return 0
        if self.kinds < MENDED_MAX:
            self.counts[self.kinds] = 1
            self.kinds += 1
        self.reasons.append(reasons)
        return 0

    cdef int tell(self, findings) except -1:
        cdef int kind
        for kind in range(len(self.reasons)):
            findings.mend(self.reasons[kind], self.counts[kind] if kind < MENDED_MAX else 1)
        return 0


# Rules for texts by the type of a span are a dozen or two; further ones are left to the rules.
cdef enum:
    TEXT_RULES_MAX = 64


# What becomes of one text of the spans of a type.
cdef struct TextRule:
    Text type
    # Empty for the resource.
    Text tag
    # Borrowed from SettledTexts.held.
    PyObject* rule
    # The same text is likely to come again.
    bint is_remembered
    bint is_query
    bint is_url


# A command or a query that is longer mostly does not come again. Source: obfuscate/cache.py.
cdef uint32_t REMEMBERED_BYTES_MAX = 8192
cdef uint32_t REMEMBERED_MAX = 2048


cdef class SettledTexts:
    """The obfuscator's rules for texts, with a memory for queries and commands.

    Args:
        look_at_all: There are other rules, for spans of every type.
        cards: Whether cards are looked for.
        texts: By type of span, what becomes of which tag (empty for the resource).
        query_types: Of spans with queries in their resource and some tags.
        query: A query, and its database's name as the tracer wrote it, to a query.
        url_tag: Whose rule needs not be asked about plain URLs.
        url_query_removed, url_digits_removed: What that rule does besides.
        characters_max: Most that is remembered of queries, and of commands; 0 for none.
    """

    cdef bint look_at_all
    cdef bint cards
    cdef TextRule rules[TEXT_RULES_MAX]
    cdef int rule_count
    cdef list held
    cdef Memory queries
    cdef dict memories
    cdef bint url_query_removed
    cdef bint url_digits_removed

    def __init__(self, *, look_at_all, cards, texts, query_types, query, url_tag,
                 url_query_removed, url_digits_removed, characters_max):
        self.look_at_all = look_at_all
        self.cards = cards
        self.url_query_removed = url_query_removed
        self.url_digits_removed = url_digits_removed
        self.held = []
        self.memories = {}
        self.queries = Memory(query, REMEMBERED_MAX, characters_max, REMEMBERED_BYTES_MAX)
        for type in query_types:
            self.add(type, "", self.queries, False, True, False)
        for type, fields in texts.items():
            for tag, rule in fields:
                if tag:
                    self.add(type, tag, rule, False, False, tag == url_tag)
                else:
                    if rule not in self.memories:
                        self.memories[rule] = Memory(
                            rule, REMEMBERED_MAX, characters_max, REMEMBERED_BYTES_MAX
                        )
                    self.add(type, tag, self.memories[rule], True, False, False)

    cdef int add(
        self, str type, str tag, object rule, bint is_remembered, bint is_query, bint is_url
    ) except -1:
        cdef TextRule* added
        cdef bytes type_bytes = type.encode(), tag_bytes = tag.encode()
        if self.rule_count >= TEXT_RULES_MAX:
            self.look_at_all = True
            return 0
        self.held += [type_bytes, tag_bytes, rule]
        added = &self.rules[self.rule_count]
        added.type = text_of(type_bytes)
        added.tag = text_of(tag_bytes)
        added.rule = <PyObject*>rule
        added.is_remembered = is_remembered
        added.is_query = is_query
        added.is_url = is_url
        self.rule_count += 1
        return 0


cdef uint8_t url_marks[256]

# In front of the query of a URL that needs no change: scheme, host, port and path of RFC 3986.
for _mark in bytearray(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:/"
):
    url_marks[_mark] = 1


cdef bint is_plain_url(Text url, bint query_removed, bint digits_removed) noexcept nogil:
    """Whether the rule changes nothing: no user, escapes or fragment, and a common scheme."""
    cdef uint32_t index, start
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
        if digits_removed and c"0" <= url.at[index] <= c"9":
            return False
        index += 1
    if query_removed and index < url.size:
        return False
    # The query: no control characters, no fragment, ASCII.
    while index < url.size:
        if not c" " <= url.at[index] < 0x7F or url.at[index] == c"#":
            return False
        index += 1
    return True
