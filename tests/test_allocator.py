import platform
import subprocess
import sys

import pytest

KEPT = """
import ctypes, sys
import torch
from upscale_lit.allocator import keep_freed_memory, raise_thresholds

class Counts(ctypes.Structure):  # mallinfo2(3)
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

count = ctypes.CDLL(None).mallinfo2
count.restype = Counts
for word in sys.argv[1:]:
    {"keep": keep_freed_memory, "raise": raise_thresholds}[word]()
before = count().fordblks  # bytes that were freed and not returned to the system
block = torch.ones(2**22)
del block
print(count().fordblks - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the allocator of glibc has this setting")
@pytest.mark.slow
def test_freed_memory_is_kept() -> None:
    kept = [
        int(subprocess.run([sys.executable, "-c", KEPT, *words], capture_output=True, check=True).stdout)
        for words in ([], ["keep"], ["raise"])
    ]
    assert kept[0] < 2**23 < min(kept[1:])
