"""Huge pages for the arrays of a CPU run.

XLA's CPU backend asks the C library for its temporary arrays anew in every step, and the kernel hands them out in
pages of 4 KiB, zeroed one by one. In pages of 2 MiB a step takes 8 to 13 % less time (docs/performance.md). The C
library reads the setting when a process starts, so the command line starts itself again with it.
"""

import os
import sys

TUNABLES = 'GLIBC_TUNABLES'
HUGE_PAGES = 'glibc.malloc.hugetlb=1'


def environment() -> dict[str, str]:
    """The environment of a process that works on the CPU. A setting of the user's own is left as it is."""
    return {TUNABLES: HUGE_PAGES} | dict(os.environ)


def restart_with_huge_pages() -> None:
    """Starts this program again with huge pages, once, where the C library is glibc and they are not yet on.

    The process keeps its number, its arguments and its open files. C libraries that do not know the setting ignore it.
    """
    if sys.platform == 'linux' and TUNABLES not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment())
