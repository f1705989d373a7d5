"""Interface between a running stream and its viewers: state, newest frames, messages."""
