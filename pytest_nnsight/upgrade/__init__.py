"""The goldens of a project under other versions of its libraries, in environments of their own."""
