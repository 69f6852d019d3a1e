"""Spec -> loaded model, once per session; the tiny built-ins."""
