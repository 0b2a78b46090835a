"""The model in the box: pictures, questions, training."""
