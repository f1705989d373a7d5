"""Where finished pixels go: a video file, a folder of pictures, a callback. All are fed chunk by chunk."""
