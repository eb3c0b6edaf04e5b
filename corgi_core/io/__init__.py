"""Files that are whole or absent, model folders, and pictures on disk."""
