"""The pages on PAR and TRSM."""
