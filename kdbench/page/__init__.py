"""A run, or several merged ones, as one HTML file and as figures for a paper. Imports no torch."""
