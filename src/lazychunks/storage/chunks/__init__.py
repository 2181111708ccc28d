"""What is stored under keys: metadata, chunks, and their files."""
