"""Check the goldens of a project under other versions of its libraries.

In: requirements such as ``transformers==5.23.0``, the project's folder, pytest's arguments.
Out: an `UpgradeRun` for each combination, as a table, as JSON, or as the first changed release.
Must not import: torch or the model libraries, which run in the environments that it makes.
"""
