"""Experiments that run a model several times: what an expert is good for, what a setting costs."""
