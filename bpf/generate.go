package bpf

// The object files are committed, so that only who changes c/ needs clang. The
// versions of the compiler and of llvm-strip are a part of their bytes:
// Debian 12's, which scripts/need.sh installs. mcpu=v1 for steer is what every
// kernel takes; fault uses the atomic fetch-and-add of v3.
//
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -output-stem steer steer c/steer.c -- -Wall -Wextra -Werror
