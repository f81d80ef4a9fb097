// The two loops over memory, compiled once for each instruction set.
#pragma once

#include <cstddef>
#include <vector>

#include "scalars.h"
#include "tensor.h"

namespace novograd {

// Returns the sum of the squares of `size` elements.
using SquareSum = double (*)(const void* gradient, std::size_t size);

// Does the linear pass with `scalars`, in float32, or in float64 for float64 weights. If `target`
// is null, only the momentum buffer is written.
using LinearPass = void (*)(void* target, const void* weights, const void* gradient, void* moment,
                            std::size_t size, const Scalars& scalars);

// The loops for one instruction set. The functions return null if there is no loop for the dtypes.
// float64 weights need a float64 gradient and momentum buffer. Other weights need a gradient of any
// other dtype, and a momentum buffer in their own dtype or in float32.
struct Kernels {
  const char* name;
  SquareSum (*square_sum)(Dtype gradient);
  LinearPass (*linear_pass)(Dtype weights, Dtype gradient, Dtype moment);
};

// The kernels that this machine can run, the best last.
std::vector<const Kernels*> supported_kernels();

// The best of `supported_kernels()`, or those that the environment variable NOVOGRAD_ISA names.
// Throws std::invalid_argument if this machine cannot run them.
const Kernels& kernels();

}  // namespace novograd
