"""Pocket: the small real LLaVA that ships with the project, its pictures, its questions and its training recipe."""
