"""What a stream will need before it runs: bytes, seconds, and on which card it fits."""
