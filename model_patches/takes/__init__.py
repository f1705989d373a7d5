"""Takes: what lies beside a video so that it can be gone on with, from its end or from any second of it."""
