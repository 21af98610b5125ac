"""The gRPC contract of weightloom: .proto files and the stubs that `make proto` generates from them."""
