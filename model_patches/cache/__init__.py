"""The KV cache of a stream: formats, slots, snapshots, and the frames one block attends to."""
