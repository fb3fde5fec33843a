"""One machine's launcher: runs of a sweep in fresh processes, one a slot, whatever becomes of the others."""
