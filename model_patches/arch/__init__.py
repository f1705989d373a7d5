"""What a checkpoint is: its layers, and the parts of a forward that belong to no one attention."""
