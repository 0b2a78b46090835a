"""The page on FiCoCo."""
