"""The process and the machine: log, signals, devices, memory, torchrun's processes, random numbers."""
