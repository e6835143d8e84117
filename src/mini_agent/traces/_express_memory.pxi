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


# Of so many texts, more or less, a second one is told from a first one.
cdef enum:
    SEEN_MAX = 2048


cdef inline Text text_held_by(list holders, str text):
    """A text as UTF-8, in an object that is added to others."""
    cdef Text held
    cdef Py_ssize_t size
    cdef bytes encoded
    assert text is not None
    if PyUnicode_IS_COMPACT_ASCII(text):
        # It is its own UTF-8.
        held.at = PyUnicode_AsUTF8AndSize(text, &size)
        held.size = <uint32_t>size
        holders.append(text)
        return held
    encoded = text.encode("utf-8", "replace")
    holders.append(encoded)
    return text_of(encoded)


cdef Text text_kept_by(list holders, Text text):
    cdef bytes copied = bytes_of(text)
    holders.append(copied)
    return text_of(copied)


cdef class Memory:
    """What a rule made of texts, within bounds; when it is full it starts anew.

    Args:
        ask: The rule: a text (and its context, if there is one) to a text, or to a pair of a
            text and the reasons for it.
        entries_max, bytes_max: Most that is held.
        text_bytes_max: Longer texts are asked every time.
        only_again: Most texts never come again: remember what is asked for the second time.
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
    cdef bint only_again
    # Parts of the hashes of texts that were asked for once, at a place by the other part.
    cdef uint32_t* seen

    def __init__(self, ask, entries_max, bytes_max, text_bytes_max, only_again=False):
        self.only_again = only_again
        if only_again:
            self.seen = <uint32_t*>PyMem_Malloc(SEEN_MAX * sizeof(uint32_t))
            if self.seen == NULL:
                raise MemoryError
            memset(self.seen, 0, SEEN_MAX * sizeof(uint32_t))
        self.ask = ask
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self.text_bytes_max = text_bytes_max
        self.kept = []
        self.passing_kept = []

    def __dealloc__(self):
        PyMem_Free(self.answers)
        PyMem_Free(self.seen)

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
        cdef tuple reasons = ()
        cdef list holders = []
        cdef Answer answer
        cdef uint32_t index
        if context.size:
            made = self.ask(string_of(key), string_of(context))
        else:
            made = self.ask(string_of(key))
        if isinstance(made, tuple):
            made, reasons = made
        memset(&answer, 0, sizeof(answer))
        answer.hash = hash
        answer.is_used = True
        answer.text = text_held_by(holders, made)
        size = key.size + context.size + answer.text.size
        if same(answer.text, key):
            answer.text = key
            holders.clear()
        else:
            answer.holder = <PyObject*>holders[0]
        if reasons:
            holders.append(reasons)
            answer.reasons = <PyObject*>reasons
        if size > self.bytes_max or key.size > self.text_bytes_max or not self.is_worth(hash):
            self.passing = answer
            self.passing_kept = holders
            return &self.passing
        if self.count >= self.entries_max or self.size + size > self.bytes_max:
            self.forget()
        if 2 * (self.count + 1) > self.slots:
            self.grow()
        answer.key = text_kept_by(holders, key)
        answer.context = text_kept_by(holders, context)
        if answer.holder == NULL:
            answer.text = answer.key
        index = <uint32_t>hash & (self.slots - 1)
        while self.answers[index].is_used:
            index = (index + 1) & (self.slots - 1)
        self.answers[index] = answer
        self.kept.extend(holders)
        self.count += 1
        self.size += size
        return &self.answers[index]

    cdef bint is_worth(self, uint64_t hash) noexcept:
        """Whether what was just asked is to be remembered."""
        cdef uint32_t* seen
        if not self.only_again:
            return True
        seen = &self.seen[(hash >> 32) & (SEEN_MAX - 1)]
        if seen[0] == <uint32_t>hash:
            return True
        seen[0] = <uint32_t>hash
        return False

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
        url_tag: Whose rule needs not be asked about ordinary URLs; see ordinary_url.py.
        url_query_removed, url_digits_removed: What that rule does besides.
        characters_max: Most that is remembered of queries, and of commands; 0 for none. What
            comes for the first time is not remembered: most queries with literals never come again.
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
        self.queries = Memory(
            query, REMEMBERED_MAX, characters_max, REMEMBERED_BYTES_MAX, only_again=True
        )
        for type in query_types:
            self.add(type, "", self.queries, False, True, False)
        for type, fields in texts.items():
            for tag, rule in fields:
                if tag:
                    self.add(type, tag, rule, False, False, tag == url_tag)
                else:
                    if rule not in self.memories:
                        self.memories[rule] = Memory(
                            rule, REMEMBERED_MAX, characters_max, REMEMBERED_BYTES_MAX,
                            only_again=True,
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
