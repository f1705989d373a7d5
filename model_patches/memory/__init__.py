"""Memory policies: how a stream uses frames that are evicted from its window."""
