"""First contact with a machine: what runs here, how exact, how fast, and the way round what does not."""
