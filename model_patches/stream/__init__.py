"""One stream: its state, the steps from one to the next, the file it is saved in, the loop around it."""
