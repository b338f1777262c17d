"""Strength controllability."""
