"""What attention needs to know of place and time: which frames, at which positions."""
