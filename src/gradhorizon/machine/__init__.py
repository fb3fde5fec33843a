"""The machine beneath: devices, signals, processes."""
