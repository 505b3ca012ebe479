"""Zip and tar files of strangers, unpacked with suspicion."""
