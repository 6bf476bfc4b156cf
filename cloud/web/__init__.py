"""The cloud's web side: the device API, pages, and the static files of the signed repository."""
