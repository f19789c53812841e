"""What the process does with memory that it has freed.

glibc maps every large tensor anew and hands it back when freed, so each forward pays for the same pages again: the
system zeroes them one by one. Kept, they are reused. Only time and resident memory change, never a value.
"""

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"Numbers of the settings in glibc's malloc.h."
KEPT_BYTES = 1 << 30
"Freed memory that is kept at the end of the heap; what exceeds it goes back to the system."
_GROWTH_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Let this process keep up to KEPT_BYTES of freed memory; False where the C library is not glibc.

    Source: mallopt(3). The same as starting with MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1073741824.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, KEPT_BYTES), (_M_TOP_PAD, _GROWTH_BYTES))
    return all([mallopt(name, value) == 1 for name, value in settings])
