"""The process and the machine: log, signals, devices, memory, processes of torchrun, random numbers."""
