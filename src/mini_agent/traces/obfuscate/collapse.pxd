# The C types of collapse.py.

cdef str _ROW

cpdef str collapse(str query)
cdef str _collapse_lists(str query, str short)
cdef Py_ssize_t _list_end(str text, Py_ssize_t position, Py_UCS4 closing) except -2
cdef str _collapse_rows(str query)
cdef Py_ssize_t _row_length(str query, Py_ssize_t position) except -1
cdef str _collapse_limits(str query)
cdef bint _is_behind_keyword(str query, Py_ssize_t end, str keyword) except -1
