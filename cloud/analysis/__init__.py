"""What the sums of a fleet prove: pure functions from cumulative sums to a verdict, its reasons and its numbers."""
