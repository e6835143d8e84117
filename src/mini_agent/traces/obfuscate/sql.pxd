# The C types of sql.py.

from mini_agent.traces.obfuscate.collapse cimport collapse
from mini_agent.traces.obfuscate.scan cimport (
    Scan,
    is_blank,
    is_digit,
    is_letter,
    is_name,
    is_word,
)

cdef str MSSQL, POSTGRESQL, WHITESPACE
cdef frozenset _VALUES, _NO_ALIAS
cdef list _RULES

cpdef str obfuscate_sql(str query, str dbms=*)

# Those of the table are called as Python functions.
cpdef _take_hash(Scan scan)
cpdef _take_slash(Scan scan)
cpdef _take_semicolon(Scan scan)
cpdef _take_opening(Scan scan)
cpdef _take_closing(Scan scan)
cpdef _take_string(Scan scan)
cpdef _take_backtick(Scan scan)
cpdef _take_double_quote(Scan scan)
cpdef _take_bracket(Scan scan)
cpdef _take_closing_bracket(Scan scan)
cpdef _take_dollar(Scan scan)
cpdef _take_digit(Scan scan)
cpdef _take_x(Scan scan)
cpdef _take_percent(Scan scan)
cpdef _take_dot(Scan scan)
cpdef _take_brace(Scan scan)
cpdef _take_closing_brace(Scan scan)
cpdef _take_at(Scan scan)
cpdef _take_colon(Scan scan)
cpdef _take_minus(Scan scan)
cpdef _take_question_mark(Scan scan)
cpdef _take_less(Scan scan)
cpdef _take_greater(Scan scan)
cpdef _take_equals(Scan scan)
cpdef _take_exclamation(Scan scan)
cpdef _take_tilde(Scan scan)
cpdef _take_operator(Scan scan)
cpdef _take_unknown(Scan scan)
cpdef _take_blanks(Scan scan)
cpdef _take_comma(Scan scan)
cdef _take_names(Scan scan)
cdef _take_name(Scan scan)
cdef _take_dot_behind_name(Scan scan)
cdef _take_bracketed_name(Scan scan)
cdef _take_minus_dot(Scan scan)
cdef _take_two(Scan scan)
cdef _take_name_as_it_is(Scan scan, Py_ssize_t end)
cdef _write_name(Scan scan, str name)

cdef bint _is_blank_name(str name) except -1
cdef bint _is_foreign_letter(Py_UCS4 character) noexcept
