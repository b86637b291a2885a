"""Patches of inference engines, and of what runs single models: one module for each library."""
