"""The golden files: path, format, atomic write, and their life under syrupy."""
