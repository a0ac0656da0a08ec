"""Readers: one module for each format of files, all of which yield rows one at a time."""
