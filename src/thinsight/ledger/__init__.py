"""Printed, computed and measured numbers side by side."""
