"""Clients of HTTP and gRPC servers: the context of what runs goes with their requests."""
