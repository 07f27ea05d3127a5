"""Imported by the fork server of the verifier processes alone: loads what they all need.

Forks share the memory of the parser's tables, which take a second to build.
"""

from treepo.scoring.math import warm_up

warm_up()
