# The C types of ordinary_url.py; the express lane asks about slices of a body.

cimport cython

cdef bint _COMPILED
cdef bytes _BITS
cdef unsigned int _NAME_BIT, _DIGIT_BIT, _COLON_BIT, _SLASH_BIT, _QUERY_BIT, _QUESTION_MARK

cpdef rewrite_ordinary(str url, bint remove_query, bint remove_digits)
@cython.locals(raw=bytes, out=bytearray, digit=Py_ssize_t, end=Py_ssize_t, kept=Py_ssize_t,
               size=Py_ssize_t)
cdef _rewrite_bytes(str url, bint remove_query, bint remove_digits)
@cython.locals(bits="const unsigned char*", in_path="unsigned int", position=Py_ssize_t,
               digit=Py_ssize_t, end=Py_ssize_t)
cdef (Py_ssize_t, Py_ssize_t) measure_ordinary(
    const unsigned char* url, Py_ssize_t length
) noexcept
cdef Py_ssize_t _host_start(const unsigned char* url, Py_ssize_t length) noexcept
@cython.locals(position=Py_ssize_t)
cdef bint _begins_with(
    const unsigned char* url, Py_ssize_t length, const unsigned char* beginning, Py_ssize_t size
) noexcept
@cython.locals(bits="const unsigned char*", byte="unsigned char", position=Py_ssize_t,
               size=Py_ssize_t, segment=Py_ssize_t)
cdef Py_ssize_t replace_segments(
    const unsigned char* url, Py_ssize_t digit, Py_ssize_t end, Py_ssize_t kept,
    unsigned char* out
) noexcept
