"""Conversion, export and verification of trained models."""
