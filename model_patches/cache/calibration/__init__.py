"""Finding the basis of the latent format for a checkpoint, and measuring what it loses."""
