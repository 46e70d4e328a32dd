"""Scorers: how much each unit matters."""
