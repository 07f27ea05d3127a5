"""Engines: what samples. Each drives growers; the rest of the pipeline does not know which."""
