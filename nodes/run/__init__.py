"""One run of Stream Video: its prompts, its snapshot files, its session."""
