"""What the disk tells of runs: looks, and writes nothing."""
