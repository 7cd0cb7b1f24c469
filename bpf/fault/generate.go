package fault

// mcpu=v3 for the atomic fetch-and-add, which kernels have since 5.12.
//
//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -target bpfel -output-stem fault fault ../c/fault.c -- -Wall -Wextra -Werror -mcpu=v3
