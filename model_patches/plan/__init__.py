"""Cost of a stream before it runs: bytes, seconds, and the graphics cards it fits on."""
