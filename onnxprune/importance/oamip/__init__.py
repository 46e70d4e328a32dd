"""Importance by the paper (OAMIP): one mixed-integer program over the whole network."""
