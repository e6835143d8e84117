# The C types of redis.py.

cimport cython

cdef bint _COMPILED
cdef dict _VALUES

cpdef str obfuscate_redis(str command)
cdef bint _is_simple(str text) except -1
@cython.locals(places=tuple, words=list)
cdef str _hide_in_line(str line)
@cython.locals(first=Py_ssize_t, distance=Py_ssize_t)
cdef _hide_values(list words, tuple places)
cdef tuple _places_by_arguments(list words)
cdef str _comparable(str word)
