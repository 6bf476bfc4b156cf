"""The demonstration: the whole loop on real flights, with real processes."""
