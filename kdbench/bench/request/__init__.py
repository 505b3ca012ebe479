"""What is asked for: the request, its file, its presets."""
