"""What a stream keeps of the frames in its window, and what one block attends to."""
