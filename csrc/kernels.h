// The two loops over memory, of which there is a copy for each instruction set.
#pragma once

#include <cstddef>
#include <vector>

#include "scalars.h"
#include "tensor.h"

namespace novograd {

// Returns the sum of the squares of `size` elements.
using SquareSum = double (*)(const void* gradient, std::size_t size);

// Takes the linear pass of `Scalars`, in float32, or in float64 for float64 weights. Without a
// target (null) only the moment is written.
using LinearPass = void (*)(void* target, const void* weights, const void* gradient, void* moment,
                            std::size_t size, const Scalars& scalars);

// One copy. The functions return null where there is no loop for the dtypes: float64 weights take
// float64 gradients and moment; the others take any gradients but those, and a moment of their own
// dtype or of float32.
struct Kernels {
  const char* name;
  SquareSum (*square_sum)(Dtype gradient);
  LinearPass (*linear_pass)(Dtype weights, Dtype gradient, Dtype moment);
};

// The copies that this machine can run, the best last.
std::vector<const Kernels*> supported_kernels();

// The best of them, or the one that the environment variable NOVOGRAD_ISA names. Throws
// std::invalid_argument if this machine cannot run that.
const Kernels& kernels();

}  // namespace novograd
