"""Unpacking zip and tar files that nobody vouches for."""
