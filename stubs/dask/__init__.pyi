# Narrow stub: only what lazychunks and its tests use of dask.
#
# Why: dask ships py.typed, but most of dask.array has no annotations, so that strict checkers
# refuse the calls (mypy) and infer `Unknown` (pyright).
# When it can go: as soon as `dask.array.Array`, `from_array` and `tokenize` are annotated in dask.
