"""What is asked of the C library's memory allocator."""

import ctypes
import platform

KEPT = 2**25  # bytes: the largest blocks that the allocator's heap may hold (mallopt(3): M_MMAP_THRESHOLD)


def keep_freed_memory() -> None:
    """glibc returns large blocks to the system when they are freed; a step wants them again, page by page and cleared.

    That took 2 to 5 % of a training step's time on a CPU, and about as much of a tile's. So freed memory stays with the
    process, up to blocks of KEPT.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, KEPT)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
