"""Yes or no, as a judge for srum-plugins."""
