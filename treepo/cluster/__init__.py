"""Replicas that sample and ranks that train, as actors of a Ray cluster.

Ray itself is imported where it is used, so that it is needed only where `compute.kind` is 'ray'.
"""
