"""Run the built-in suite on a small model of every kind of language model in transformers."""
