"""Streaming encode and decode of video latents."""
