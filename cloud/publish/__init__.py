"""Publish: keys, the signed repository, bundles and channels."""
