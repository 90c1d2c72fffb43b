"""Servers of others, started as their users start them."""
