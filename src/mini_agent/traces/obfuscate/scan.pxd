# The C types of scan.py.

cimport cython

cdef str _END, WHITESPACE
cdef Py_ssize_t _LONG_RUN
cdef bint _COMPILED

cpdef bint is_blank(Py_UCS4 character) noexcept
cpdef bint is_digit(Py_UCS4 character) noexcept
cpdef bint is_letter(Py_UCS4 character) noexcept
cpdef bint is_word(Py_UCS4 character) noexcept
cpdef bint is_name(Py_UCS4 character) noexcept


# It holds texts and collections of texts and numbers, so that no cycle leads back to it.
@cython.final
@cython.auto_pickle(False)
@cython.freelist(4)
@cython.no_gc
cdef class Scan:
    cdef public str text, dbms
    cdef public list out
    cdef public Py_ssize_t length, position, alias_at
    cdef public bint grouped, assigned, savepoint
    cdef Py_ssize_t blank_from, blank_to
    cdef set dead_ends
    cdef dict dollars

    cpdef str written(self)
    @cython.locals(last=str)
    cpdef space(self)
    cpdef emit(self, str token)
    cpdef emit_quoted(self, str name)
    cpdef emit_before_blank(self, str token)
    cpdef operator(self, str token)
    cpdef placeholder(self)
    cpdef cut(self, Py_ssize_t length)
    cpdef bint drop_alias(self) except -1
    cpdef value(self)
    @cython.locals(token=str)
    cpdef Py_UCS4 last(self) except? -1
    @cython.locals(token=str)
    cdef bint _is_qualifier(self) except -1
    @cython.locals(token=str)
    cdef Py_UCS4 _last_solid(self) except? -1

    cpdef skip_blanks(self)
    cpdef skip_line(self)
    cpdef skip_behind(self, str mark, Py_ssize_t start)
    cpdef Py_ssize_t name_end(self, Py_ssize_t start) except -1
    cpdef Py_ssize_t ordinary_end(self, Py_ssize_t start) except -1
    cpdef Py_ssize_t qualified_end(self, Py_ssize_t start) except -1
    cpdef Py_ssize_t letters_end(self, Py_ssize_t start, str marks) except -1
    cpdef skip_number(self, Py_ssize_t start, bint may_have_dot=*)
    cpdef str read_quoted(self, str quote)
    cpdef Py_ssize_t string_end(self, Py_ssize_t start) except -2
    cdef Py_ssize_t _escaped_string_end(self, Py_ssize_t start) except -2
    cpdef Py_ssize_t dollar_quote_end(self, Py_ssize_t start) except -2


cdef bint _is_special(str text, Py_ssize_t start, Py_ssize_t end) except -1
cdef _compile_ordinary_names()
cdef dict _find_tags(str text)
