"""Journal, sums and spool: what the device remembers of its answers until the cloud has it."""
