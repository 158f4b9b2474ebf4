"""Foveal: every way of fusing vision and language in one small house."""
