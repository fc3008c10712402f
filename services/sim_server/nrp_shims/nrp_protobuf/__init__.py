"""Protobuf messages: a module `<name>_pb2` for every .proto file of the backend and of the experiment.

The modules of the backend's own files are generated beside this one when the backend is built.
"""
