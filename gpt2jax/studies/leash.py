"""Runs a command that ends with the process which started it: python leash.py PID CORES COMMAND ...

A study that is killed then leaves no run behind that would hold its folder. Linux alone has this; elsewhere the command
goes on, and a study that is started again waits for it. CORES, as '0,1', are those that the command may use; '': all
of its parent.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

if __name__ == '__main__':
    parent, cores, command = sys.argv[1], sys.argv[2], sys.argv[3:]
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it ended before the line above
            sys.exit(f'process {parent} is gone')
    if cores:
        os.sched_setaffinity(0, map(int, cores.split(',')))
    os.execv(command[0], command)
