"""A language model server in small: model, continuous-batching engine, HTTP server, router, load generator.

`examples/serve_llm.py` runs it. Only :mod:`observed` knows of aiobs, and everything runs without it.
"""
