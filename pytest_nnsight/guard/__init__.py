"""What a test left behind on the shared model: found, put back, and named."""
