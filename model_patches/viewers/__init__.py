"""What those who watch a stream see of it and ask of it: its state, its newest pictures, their wishes."""
