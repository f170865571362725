"""Runs a command that ends with the process which started it: python leash.py PID COMMAND ...

A study that is killed then leaves no run behind that would hold its folder. Linux alone has this; elsewhere the command
goes on, and a study that is started again waits for it.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

if __name__ == '__main__':
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(sys.argv[1]):  # it ended before the line above
            sys.exit(f'process {sys.argv[1]} is gone')
    os.execv(sys.argv[2], sys.argv[2:])
