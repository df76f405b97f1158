"""The gRPC edge: translate, call, translate. The only part of the server that knows protobuf and gRPC."""
