"""What a stream remembers of the frames that left its window."""
