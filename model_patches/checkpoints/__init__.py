"""Files as they are published: nesting, key layouts, what a file holds, LoRA, recipes."""
