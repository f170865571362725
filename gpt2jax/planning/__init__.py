"""What a config would need and do on hardware that is not here, by compiling its steps for it.

topologies.py knows the chips; compiling.py runs worker.py in a process of its own, which compiles programs.py for the
devices of devices.py; hlo.py reads what the compiler wrote, timing.py, collectives.py, kernels.py and memory.py make
figures of it; outlook.py turns them into tokens, days and money; searching.py tries other configs.
"""
